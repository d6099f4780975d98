"""What drawing a protocol will take, told before anything is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

from excise.families.base import Family
from excise.families.half_drawing import gains, in_bfloat16
from excise.families.timing import seconds_per_pass
from excise.protocols.base import Protocol, Target
from excise.support.counts import counted

MANY = 100  # pictures; fewer need no warning


def drawing_cost(
    family: Family,
    plan: Protocol,
    targets: Sequence[Target],
    groups: Sequence[str] | None = None,
    *,
    untouched: bool = True,
    bfloat16: bool | None = None,
) -> str | None:
    """Return in a sentence how many pictures a protocol draws and about how long that takes here; None for a few.

    One pass of the model is timed. Pictures that are known from an earlier call are not subtracted.

    Args:
        targets, groups: as in `Protocol.select`.
        untouched: whether each picture is drawn by the untouched model as well.
        bfloat16: as in `excise.evaluation.evaluate.evaluate`: the precision in which the pass is timed.
    """
    count = len(plan.select(tuple(targets), groups)) * (1 + untouched)
    return picture_cost(family, plan, count, bfloat16)


def picture_cost(family: Family, plan: Protocol, count: int, bfloat16: bool | None = None) -> str | None:
    """Return in a sentence about how long so many pictures of a protocol take here; None for a few.

    Args:
        bfloat16: as of `drawing_cost`.
    """
    if count < MANY:
        return None
    passes = count * plan.steps * (2 if plan.guidance > 1 else 1)
    half = gains(family) if bfloat16 is None else bfloat16
    with in_bfloat16(family) if half else nullcontext():
        seconds = seconds_per_pass(family) * passes
    return (
        f"{counted(count, 'picture')} to draw, about {_duration(seconds)} here at most: those that the cache holds are "
        "not drawn again. Ctrl-C stops."
    )


def _duration(seconds: float) -> str:
    """A time in round numbers.

    >>> _duration(3), _duration(53), _duration(140)
    ('10 s', '60 s', '3 min')
    """
    return f"{max(10, -(-seconds // 10) * 10):.0f} s" if seconds < 90 else f"{-(-seconds // 60):.0f} min"
