"""The messages of `excise apply`: what changed, what the verification shows, and what to do where a gate fails."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from excise.concepts.concept import listed
from excise.metrics.rates import needed_count
from excise.support.counts import agreeing, counted

if TYPE_CHECKING:
    from excise.policy.apply import AppliedPolicy

MOST_LINES = 8  # concepts that failed, one line each


def summary(applied: AppliedPolicy) -> str:
    """Return one sentence on what was changed."""
    entry = applied.entry
    count = len(entry["in_force"])
    concepts = counted(count, "concept")
    if not applied.changed:
        are = agreeing(count, "is", "are")
        return f"nothing changed: {concepts} {are} in force already, as the policy asks (ledger entry {entry['n']})."
    added, restored = _names(entry["added"], "new"), _names(entry["removed"], "restored")
    rebuilt = f"{applied.made} of {counted(applied.groups, 'edit')} rebuilt"
    verified = entry["verified"]
    if not count:
        state = "no concept is removed"
    elif verified is None:
        state = f"edit written for {concepts}, not yet verified"
    else:
        state = f"{sum(c['passed'] for c in verified['concepts'])} of {concepts} verified as removed"
    return f"{entry['model']['name']}: {state} ({added}; {restored}); {rebuilt}."


def verification_lines(verified: Mapping[str, Any] | None) -> list[str]:
    """Return how many concepts passed, and a line for each gate that failed, of at most `MOST_LINES` concepts.

    Args:
        verified: of a ledger entry.
    """
    if verified is None:
        return ["not verified: there is no judge. Set `judge` in the policy to the folder of a CLIP model."]
    gates, retained = verified["gates"], verified["retained"]
    failed = [c for c in verified["concepts"] if not c["passed"]]
    count = len(verified["concepts"])
    passes = f"{counted(count, 'concept')} {agreeing(count, 'passes', 'pass')}"
    lines = [f"verified by {verified['judge']}: {count - len(failed)} of {passes}{_still_seen(verified)}"]
    if retained:
        lines[0] += f"; {_of(retained)} retained {agreeing(round(retained['n']), 'name', 'names')} still right"
    lines += [
        f"{c['name']}: {erased_fault(c['erased'], gates['erased'], verified['pictures'])}" for c in failed[:MOST_LINES]
    ]
    if len(failed) > MOST_LINES:
        more = len(failed) - MOST_LINES
        verb, them = agreeing(more, "fails", "fail"), agreeing(more, "it too", "them all")
        lines.append(f"{counted(more, 'more concept')} {verb}; the report names {them}")
    if any(c["erased"] is None for c in failed):
        lines.append(
            "to verify what is not verifiable: set `judge` in the policy to another CLIP folder, or try other "
            "words with excise evaluate --ask FILE"
        )
    if not verified["retained_passed"]:
        lines.append(f"retained names: {retained_fault(retained, gates['retained'])}")
    return lines


def erased_fault(erased: Mapping[str, float] | None, gate: float, pictures: int) -> str:
    """Return why a concept fails its gate, and what to do.

    Args:
        erased: share of its pictures that are clean, with interval and count; None where none could be judged.
        gate: the share that the lower end of the interval must reach.
        pictures: setting of the policy; only those count in which the untouched model shows the concept.

    >>> erased_fault({"value": 1.0, "low": 0.4385, "n": 3}, 0.5, 3)
    '3 of 3 clean, but 3 pictures prove only 44 % or more (gate 50 %). Set `pictures: 4` or more.'
    """
    if erased is None:
        return f"cannot be verified: the judge sees it in none of {_pictures(pictures)} of the untouched model."
    n = int(erased["n"])
    clean = f"{_of(erased)} clean"
    if erased["value"] < gate:
        return f"{clean} (gate {_percent(gate)}). Use another method, or stronger settings."
    fault = (
        f"{clean}, but {_pictures(n)} {_prove(n)} only {_lower(erased['low'], gate)} or more (gate {_percent(gate)})"
    )
    if erased["value"] < 1:  # drawing more until a gate passes proves less than it seems to
        seen = round(n * (1 - erased["value"]))
        return f"{fault}: it is still seen in {seen}. Use another method, or stronger settings."
    needed = needed_count(1.0, gate)
    if needed is None:
        return f"{fault}. No number of pictures proves that share; lower the gate `erased`."
    return f"{fault}. Set `pictures: {math.ceil(needed * pictures / n)}` or more."


def retained_fault(retained: Mapping[str, float] | None, gate: float) -> str:
    """Return why the retained names fail their gate, and what to do; the arguments are as in `erased_fault`.

    >>> retained_fault({"value": 1.0, "low": 0.2065, "n": 1}, 0.8)
    '1 of 1 still right, which proves only 21 % or more (gate 80 %). It takes 16 or more: add names to `preserve`.'
    """
    if retained is None:
        return "cannot be verified: the judge sees none of them in pictures of the untouched model."
    right = f"{_of(retained)} still right"
    if retained["value"] < gate:
        return f"{right} (gate {_percent(gate)}). Add names to `preserve`, or use a gentler method or settings."
    fault = f"{right}, which proves only {_lower(retained['low'], gate)} or more (gate {_percent(gate)})"
    needed = needed_count(retained["value"], gate)
    if needed is None:
        return f"{fault}. No number of pictures proves that share; lower the gate `retained`."
    return f"{fault}. It takes {needed} or more: add names to `preserve`."


def _still_seen(verified: Mapping[str, Any]) -> str:
    """In which concepts' pictures the judge still sees them, passed or not; empty where it sees none."""
    rates = {c["name"]: c["erased"] for c in verified["concepts"] if c["erased"]}
    counts = {name: (round(r["n"] * (1 - r["value"])), round(r["n"])) for name, r in rates.items()}
    seen = [f"{name} in {k} of {n}" for name, (k, n) in counts.items() if k]
    return f" (still seen: {listed(seen)})" if seen else ""


def _names(names: list[str], what: str) -> str:
    return f"{len(names)} {what}: {listed(names)}" if names else f"0 {what}"


def _of(rate: Mapping[str, float]) -> str:
    """A rate as counts."""
    return f"{round(rate['value'] * rate['n'])} of {round(rate['n'])}"


def _pictures(count: int) -> str:
    return counted(count, "picture")


def _prove(count: int) -> str:
    return agreeing(count, "proves", "prove")


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _lower(low: float, gate: float) -> str:
    """The lower end of an interval, with a decimal where it would read like the gate above it."""
    return _percent(low) if _percent(low) != _percent(gate) else f"{math.floor(1000 * low) / 10:.1f} %"
