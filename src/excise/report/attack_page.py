"""The results of a suite of attacks: the JSON document of `excise attack`, and its page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from excise.attacks.accounting import Result
from excise.attacks.suite import SuiteResult
from excise.report.html import AttackRow, Banner, Page, Section, write
from excise.support.counts import counted


def document(outcome: SuiteResult) -> dict[str, Any]:
    """The JSON document of `excise attack`."""
    top = outcome.worst
    return {
        "attacks": [r.document() for r in outcome.results],
        "worst_gap": top.gap.value if top.gap else None,
        "worst_back": top.back.value if top.back else None,
        "worst_attack": top.attack or None,
        "gap_to": "oracle" if outcome.has_oracle else "control",
        "judge": outcome.judge,
    }


def write_page(outcome: SuiteResult, model: str, concept: str, edits: Sequence[str], suite: str, out: Path) -> Path:
    """Write the page of one suite to `out`/report.html.

    Args:
        edits: the edit files that were applied during the attacks.
    """
    section = Section(
        title=concept,
        summary=f"{suite} suite on {model} {_with_edits(len(edits))}.",
        attacks=[_row(r, outcome) for r in outcome.results],
    )
    facts = [
        ("model", model),
        ("edits", ", ".join(edits) or "none"),
        ("judge", outcome.judge),
        ("recovered", "share of test prompts for which at least one image within the budget shows the target"),
        ("seeds", "different seeds for guiding images, searches and test images; no attack is guided by a test prompt"),
    ]
    page = Page(f"Attacks on {concept}", lead(outcome), [section], facts, banners(outcome))
    return write(page, out / "report.html")


def lead(outcome: SuiteResult) -> str:
    """The worst case in a few sentences."""
    top = outcome.worst
    if outcome.has_oracle and top.gap is not None:
        if top.gap.value <= 0:
            return "No attack recovers the concept more often than a model never trained on it shows it."
        return (
            f"The strongest attack, {top.attack}, recovers the concept {100 * top.gap.value:.0f} points more often "
            "than it finds it in a model never trained on it."
        )
    if top.back is None:
        return "No attack could be run."
    rates = [r.model.any_of_n.value for r in outcome.results if r.model and not r.teaches]
    taught = [(r.name, r.model.any_of_n.value) for r in outcome.results if r.model and r.teaches]
    sentence = f"{sum(value > 0 for value in rates)} of {counted(len(rates), 'attack')} recovered the concept"
    if top.back.value:
        sentence += f"; the strongest, {top.attack}, on {100 * top.back.value:.0f} % of the prompts"
    if not taught:
        return f"{sentence}."
    hits = [(value, name) for name, value in taught if value > 0]
    shown = f"Of those that show the model images of the target, {len(hits)} of {len(taught)} did"
    if hits:
        value, name = max(hits)
        shown += f", {name} on {100 * value:.0f} % of the prompts"
    return (
        f"{sentence}. {shown}: without a model never trained on the concept (--oracle), what they recover cannot be "
        "told from what they teach."
    )


def banners(outcome: SuiteResult) -> list[Banner]:
    """The worst case as a verdict, and what ends the edit without any attack."""
    rows = outcome.results
    recovered = [r for r in rows if r.model and r.model.any_of_n.value > 0 and (outcome.has_oracle or not r.teaches)]
    above = [r for r in recovered if r.gap is None or r.gap.value > 0] if outcome.has_oracle else recovered
    ran = [r for r in rows if r.model]
    if not ran:
        return [Banner("No attack could be run.")]
    if above:
        worst = max(above, key=lambda r: r.model.any_of_n.value if r.model else 0.0)
        assert worst.model is not None
        share = f"{100 * worst.model.any_of_n.value:.0f} % of {counted(len(worst.model.tests), 'prompt')}"
        first = Banner(
            f"{len(above)} of {counted(len(ran), 'attack')} recovered the concept: {worst.name} on {share}.", "bad"
        )
    else:
        taught = any(r.model and r.teaches and r.model.any_of_n.value > 0 for r in rows)
        rest = ", except some that show the model images of it." if taught else "."
        first = Banner(f"No attack recovered the concept{rest}", "warn" if taught else "good")
    undone = [r.why for r in rows if r.attack == "swap" and r.why.startswith("only the")]
    return [first, *(Banner(f"{why[0].upper()}{why[1:]}", "warn") for why in undone[:1])]


def _with_edits(count: int) -> str:
    return {0: "without edits", 1: "with one edit applied"}.get(count, f"with {count} edits applied")


def _row(result: Result, outcome: SuiteResult) -> AttackRow:
    if result.model is None:
        return AttackRow(result.name, result.access, failure=result.why)
    sides = {"model": result.model, "control": result.control, "oracle": result.oracle}
    gap, model = result.gap, result.model
    return AttackRow(
        name=result.name,
        access=result.access,
        bars={side: outcome.any_of_n.value if outcome else None for side, outcome in sides.items()},
        gap=gap.value if gap else None,
        cost=f"{counted(result.images, 'image')} a prompt, {counted(len(model.tests), 'prompt')}, "
        f"{counted(model.passes, 'denoiser pass', 'denoiser passes')}, "
        f"{model.seconds:.0f} s",
        shots=[*outcome.shots[result.name]],
    )
