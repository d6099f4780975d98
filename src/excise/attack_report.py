"""What a suite of attacks found, as a page and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from excise.attacking import Attacked
from excise.attacks.accounting import Result, worst
from excise.report.html import Assault, Page, Section, write

MOST_SHOTS = 8


def document(found: Attacked) -> dict[str, Any]:
    """The JSON of `excise attack`."""
    top = worst(found.results)
    return {
        "attacks": [r.document() for r in found.results],
        "worst_gap": top.gap.value if top and top.gap else None,
        "worst_attack": top.name if top else None,
        "gap_to": "oracle" if found.has_oracle else "control",
        "judge": found.judge,
    }


def write_page(found: Attacked, model: str, concept: str, edits: Sequence[str], suite: str, out: Path) -> Path:
    """The page of one suite."""
    section = Section(
        title=concept,
        summary=f"{suite} suite on {model}" + (f" with {len(edits)} edit(s) in force." if edits else " without edits."),
        assaults=[_assault(r, found) for r in found.results],
    )
    facts = [
        ("model", model),
        ("edits", ", ".join(edits) or "none"),
        ("judge", found.judge),
        ("came back", "share of test prompts of which any picture within the budget shows the target"),
        ("seeds", "of guides, searches and test pictures apart; test prompts guide no attack"),
    ]
    return write(Page(f"Attacks on {concept}", _lead(found), [section], facts), out / "report.html")


def _lead(found: Attacked) -> str:
    """The worst case in a sentence."""
    top = worst(found.results)
    whom = "a model that never knew it" if found.has_oracle else "the same number of pictures without a search"
    if top is None or top.gap is None:
        return "No attack could be made."
    if top.gap.value <= 0:
        return f"No attack brings it back more often than {whom}."
    return f"The strongest attack, {top.name}, brings it back {100 * top.gap.value:.0f} points more often than {whom}."


def _assault(result: Result, found: Attacked) -> Assault:
    if result.model is None:
        return Assault(result.name, result.access, why=result.why)
    sides = {"model": result.model, "control": result.control, "oracle": result.oracle}
    gap, model = result.gap, result.model
    images = found.pictures[result.name, "model"]
    words = [w for row in model.words for w in row]
    shown = [s for row in model.shown for s in row]
    order = sorted(range(len(images)), key=lambda i: not shown[i])[:MOST_SHOTS]
    return Assault(
        name=result.name,
        access=result.access,
        bars={side: outcome.any_of_n.value if outcome else None for side, outcome in sides.items()},
        gap=gap.value if gap else None,
        spent=f"{result.images} pictures a prompt, {len(model.tests)} prompts, {model.passes} passes, "
        f"{model.seconds:.0f} s",
        shots=[(images[i], words[i], shown[i]) for i in order],
    )
