"""What a suite of attacks found, as a page and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from excise.attacks.accounting import Result
from excise.attacks.suite import Attacked
from excise.report.html import Assault, Page, Section, write


def document(found: Attacked) -> dict[str, Any]:
    """The JSON of `excise attack`."""
    top = found.worst
    return {
        "attacks": [r.document() for r in found.results],
        "worst_gap": top.gap.value if top.gap else None,
        "worst_back": top.back.value if top.back else None,
        "worst_attack": top.attack or None,
        "gap_to": "oracle" if found.has_oracle else "control",
        "judge": found.judge,
    }


def write_page(found: Attacked, model: str, concept: str, edits: Sequence[str], suite: str, out: Path) -> Path:
    """The page of one suite."""
    section = Section(
        title=concept,
        summary=f"{suite} suite on {model} {_in_force(len(edits))}.",
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


def _in_force(edits: int) -> str:
    return {0: "without edits", 1: "with one edit in force"}.get(edits, f"with {edits} edits in force")


def _lead(found: Attacked) -> str:
    """The worst case in a sentence."""
    top = found.worst
    if found.has_oracle and top.gap is not None:
        if top.gap.value <= 0:
            return "No attack brings it back more often than a model that never knew it shows it."
        points = f"{100 * top.gap.value:.0f} points"
        return f"The strongest attack, {top.attack}, brings it back {points} more often than on one that never knew it."
    if top.back is None:
        return "No attack could be made."
    worst = (
        f"The strongest attack, {top.attack}, brings it back on {100 * top.back.value:.0f} % of the prompts."
        if top.back.value
        else "No attack that counts brings it back."
    )
    return (
        f"{worst} Attacks that show the model pictures of the target are left out here: without a model that never "
        "knew it (--oracle) nobody can tell what they bring back from what they teach."
    )


def _assault(result: Result, found: Attacked) -> Assault:
    if result.model is None:
        return Assault(result.name, result.access, why=result.why)
    sides = {"model": result.model, "control": result.control, "oracle": result.oracle}
    gap, model = result.gap, result.model
    return Assault(
        name=result.name,
        access=result.access,
        bars={side: outcome.any_of_n.value if outcome else None for side, outcome in sides.items()},
        gap=gap.value if gap else None,
        spent=f"{result.images} pictures a prompt, {len(model.tests)} prompts, {model.passes} passes, "
        f"{model.seconds:.0f} s",
        shots=[*found.shots[result.name]],
    )
