"""Choice of the checkpoint: the one whose pictures erase and retain best, on prompts and seeds that no test has."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from excise.support.progress import part_of
from excise.training.adapters import Weights
from excise.training.config import KEEP
from excise.training.loop import State
from excise.training.probes import Preview, Rates

ROUNDING = 1e-9
TIE = 0.01  # scores within it count as equal
CLEAR = 0.5  # of the target's pictures that show something else: such a tie goes first
ENOUGH = 0.95  # erased, under the rules "constrained" and "kept"
Say = Callable[[str, float, int], None]
Rule = Literal["hmean", "constrained", "kept", "last"]
Tie = Literal["middle", "early", "late", "clear"]


@dataclass(frozen=True)
class Point:
    """One checkpoint of the calibration curve."""

    step: int
    rates: Rates


def calibrate(
    adapter: Weights,
    states: Mapping[int, State],
    preview: Preview,
    rule: Rule,
    say: Say = lambda *_: None,
    tie: Tie = "middle",
    keep: float = KEEP,
) -> tuple[int, list[Point]]:
    """Rate every checkpoint and choose one.

    Returns:
        The step chosen, and the curve. The adapter holds the chosen state.
    """
    curve = []
    for i, (step, state) in enumerate(sorted(states.items())):
        adapter.load(state)
        curve.append(Point(step, preview.rates(preview.draw(part_of(say, "calibrating", i, len(states))))))
    say("calibrating", len(states), len(states))
    step = choose(curve, rule, tie, keep, sum(p.role == "target" for p in preview.probes))
    adapter.load(states[step])
    return step, curve


def choose(curve: Sequence[Point], rule: Rule, tie: Tie = "middle", keep: float = KEEP, pictures: int = 0) -> int:
    """The step that a rule picks from a curve.

    hmean: the largest harmonic mean of erase, related and unrelated. constrained: the largest retain among those that
    erase enough, else as hmean. kept: the latest of those that retain `keep` on either side, of these one that erases
    enough where there is any; where none does, the one that retains most on average. last: the last one. Of a tie under
    the first two rules the earliest, the latest, the middle or the clearest, see `_best` and `_clearest`.

    Args:
        pictures: of targets, by which erase was rated.
    """
    if rule == "last":
        return curve[-1].step
    if rule == "kept" and (held := [p for p in curve if p.rates.least >= keep]):
        return ([p for p in held if p.rates.erase >= ENOUGH] or held)[-1].step
    if rule == "kept":
        return max(curve, key=lambda p: (p.rates.retain, p.step)).step
    enough = [p for p in curve if p.rates.erase >= ENOUGH]
    if rule == "constrained" and enough:
        return _best(enough, [p.rates.retain for p in enough], tie)
    if tie == "clear":
        return _clearest(curve, pictures)
    return _best(curve, [p.rates.score for p in curve], tie)


def _clearest(curve: Sequence[Point], pictures: int) -> int:
    """Of those that one target's picture parts from the best, the one whose target pictures most often show something.

    A single picture that comes back or goes is chance; what the others show instead tells how far a target is gone. Of
    equals the latest.

    Args:
        pictures: of targets, by which erase was rated.
    """
    best = max(curve, key=lambda p: p.rates.score)
    lost = replace(best.rates, erase=max(0.0, best.rates.erase - 1 / max(1, pictures)))
    tied = [p for p in curve if p.rates.score >= lost.score - ROUNDING]
    return max(tied, key=lambda p: (p.rates.instead, p.step)).step


def _best(curve: Sequence[Point], scores: Sequence[float], tie: Tie) -> int:
    """Of those that tie with the best score the middle one; if target pictures of some show something, of these.

    The first to tie has barely lost its target, the last has moved furthest. And a prompt that yields wreckage has lost
    its target as surely as one that yields a tree, so the score cannot tell them apart.
    """
    tied = sorted((p for p, s in zip(curve, scores, strict=True) if s >= max(scores) - TIE), key=lambda p: p.step)
    if tie != "middle":
        return tied[0 if tie == "early" else -1].step
    clear = [p for p in tied if p.rates.instead >= CLEAR] or tied
    return clear[(len(clear) - 1) // 2].step
