"""What the results of attacks show of themselves in a terminal and in a notebook."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from excise.attacks.accounting import Outcome, Result, Worst
from excise.attacks.runner import JudgedShot
from excise.metrics.rates import Estimate
from excise.support.counts import counted
from excise.support.display import Card, Picture


def suite_card(
    results: Sequence[Result], worst: Worst, shots: Mapping[str, Sequence[JudgedShot]], judge: str, oracle: bool
) -> Card:
    """Describe a suite: how many attacks bring the concept back, the strongest, and the pictures of each."""
    run = [r for r in results if r.model is not None]
    back = [r for r in run if r.model is not None and r.model.any_of_n.value > 0]
    strongest = sorted(run, key=lambda r: -_back(r))
    facts = [
        ("strongest", f"{worst.attack}: share of prompts {_share(worst.back)}" if worst.attack else ""),
        ("worst gap", f"{_share(worst.gap)} to a model that never knew the concept" if worst.gap else ""),
        ("judged by", judge),
        ("not run", ", ".join(r.name for r in results if r.model is None)),
    ]
    sides = ("recovered", "control", *(["oracle"] if oracle else []), "gap")
    rows = [
        (
            r.name,
            *(_rate(o) for o in (r.model, r.control, *([r.oracle] if oracle else []))),
            _share(r.gap),
            r.access,
            r.why,
        )
        for r in [*strongest, *(r for r in results if r.model is None)]
    ]
    pictures = [
        (r.name, [Picture(s.image, s.prompt, s.shown) for s in shots[r.name]]) for r in strongest if r.name in shots
    ]
    title = f"Attack: {len(back)} of {counted(len(run), 'attack')} brought the concept back"
    return Card(title, facts, ("attack", *sides, "access", ""), rows, pictures)


def _back(result: Result) -> float:
    return result.model.any_of_n.value if result.model else 0.0


def _rate(outcome: Outcome | None) -> str:
    return "" if outcome is None else _share(outcome.any_of_n)


def _share(estimate: Estimate | None) -> str:
    """A rate with its interval and count."""
    if estimate is None:
        return ""
    return f"{estimate.value:.0%} ({estimate.low:.0%} to {estimate.high:.0%}; n = {estimate.n})"
