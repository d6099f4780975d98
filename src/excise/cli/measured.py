"""What `excise evaluate` and `excise judge` print of a result, and how they hold it against gates."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from excise.evaluation.catalog import OTHER_WORDS, proving_nothing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from excise.cli.gates import Gate

UNPROVEN = ("ua", "ua_relative", "ua_corrected", "h", "acc_e", "h_o", "eraseeval", "reflected", *OTHER_WORDS)
"""Metrics that say nothing where a concept is not verifiable."""


def print_evaluation(
    document: dict[str, Any], out: Path | None, *, as_json: bool, next_step: str | None = None
) -> None:
    """Print the document of an evaluation: verdicts, what is retained, the table of metrics.

    Args:
        next_step: what to do where a concept is not verifiable.
    """
    from excise.cli import show
    from excise.evaluation.catalog import METRIC_HEAD, METRICS, metric_rows, retained_sentence
    from excise.evaluation.verdict import NEXT_STEP, ConceptVerdict, told
    from excise.protocols.concept import NO_JUDGE

    if as_json:
        show.print_json(document)
        return
    for line, _ in told([ConceptVerdict(**verdict) for verdict in document["verdicts"]]):
        show.say(line)
    if any(verdict["status"] == "not verifiable" for verdict in document["verdicts"]):
        show.say(f"to verify what is not verifiable: {next_step or NEXT_STEP}")
    if document["protocol_summary"]["judge"] == NO_JUDGE:
        show.say(
            "not verified: there is no judge, so these numbers say how much the images changed, not what they show. "
            "Look at them, or give --judge: the name of one (excise doctor --judges), or the folder of a CLIP model."
        )
    if sentence := retained_sentence(document["metrics"], document.get("untouched")):
        show.say(sentence)
    if words := proving_nothing(document.get("untouched")):
        labels = ", ".join(METRICS[key].label for key in words)
        show.say(f"prove nothing: {labels}; the untouched model shows the target in none of their pictures either")
    show.table(metric_rows(document["metrics"]), METRIC_HEAD)
    if out is not None:
        show.say(f"report: {out / 'report.html'}")


def check_gates(required: Sequence[Gate], document: dict[str, Any]) -> None:
    """Hold the metrics against gates; of a concept that could not be judged nothing is proven.

    Raises:
        GatesFailed: a gate failed.
    """
    from excise.cli import gates

    missing = _unverifiable(document)
    unproven = {*(UNPROVEN if missing else ()), *proving_nothing(document.get("untouched"))}
    if unproven and missing is None:
        missing = "the untouched model shows the target in none of the pictures of these prompts"
    gates.check(required, {k: m for k, m in document["metrics"].items() if k not in unproven}, missing=missing)


def _unverifiable(document: dict[str, Any]) -> str | None:
    """Why nothing is proven of some concepts; None where all could be judged."""
    from excise.evaluation.verdict import ConceptVerdict

    verdicts = [ConceptVerdict(**v) for v in document["verdicts"]]
    sentences = [f"{v.concept} is {v.sentence()}" for v in verdicts if v.status == "not verifiable"]
    return "; ".join(sentences) or None
