"""The results of a suite of attacks: the JSON document of `excise attack`, and its page."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from excise.attacks.accounting import Result
from excise.attacks.suite import SuiteResult
from excise.edits.verified import Check
from excise.report.answers import answers
from excise.report.attack_answers import attacked, evidence_of
from excise.report.html import AttackRow, Banner, Page, Section, write
from excise.support.counts import counted
from excise.support.runs import edit_path


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


def write_page(
    outcome: SuiteResult,
    model: str,
    concept: str,
    edits: Sequence[str],
    suite: str,
    out: Path,
    checks: Sequence[Check] = (),
) -> Path:
    """Write the page of one suite to `out`/report.html.

    Args:
        edits: the edit files that were applied during the attacks.
        checks: what was verified of the edit before.
    """
    before = evidence_of(outcome, checks, concept, model)
    section = Section(
        title=concept,
        summary=f"{suite} suite on {model} {_with_edits(len(edits))}.",
        answers=answers(before, attacked(outcome, checks, concept, model), measure=_measuring(model, concept, edits)),
        attacks=[_row(r, outcome) for r in outcome.results],
    )
    facts = [
        ("model", model),
        ("edits", ", ".join(edits) or "none"),
        ("judge", outcome.judge),
        ("recovered", "share of test prompts for which at least one image within the budget shows the target"),
        ("seeds", "different seeds for guiding images, searches and test images; no attack is guided by a test prompt"),
    ]
    page = Page(f"Attacks on {concept}", lead(outcome), [section], facts, notes(outcome))
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


def notes(outcome: SuiteResult) -> list[Banner]:
    """What ends the edit without any attack."""
    undone = [r.why for r in outcome.results if r.attack == "swap" and r.why.startswith("only the")]
    return [Banner(f"{why[0].upper()}{why[1:]}", "warn") for why in undone[:1]]


def _measuring(model: str, concept: str, edits: Sequence[str]) -> str:
    """The command that measures the edit which was attacked; empty where it was not a single one."""
    if len(edits) != 1:
        return ""
    words = f"--model {shlex.quote(model)} --edit {shlex.quote(edits[0])} --concept {shlex.quote(concept)}"
    return f"excise evaluate {words} --out {shlex.quote(str(edit_path(edits[0]).parent))}-evaluation"


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
