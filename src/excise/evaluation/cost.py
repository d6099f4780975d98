"""What drawing a protocol will take, told before anything is drawn."""

from __future__ import annotations

from collections.abc import Sequence

from excise.families.base import Family
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
) -> str | None:
    """Return in a sentence how many pictures a protocol draws and about how long that takes here; None for a few.

    One pass of the model is timed. Pictures that are known from an earlier call are not subtracted.

    Args:
        targets, groups: as in `Protocol.select`.
        untouched: whether each picture is drawn by the untouched model as well.
    """
    count = len(plan.select(tuple(targets), groups)) * (1 + untouched)
    if count < MANY:
        return None
    passes = count * plan.steps * (2 if plan.guidance > 1 else 1)
    minutes = max(1, round(seconds_per_pass(family) * passes / 60))
    pictures = counted(count, "picture")
    return (
        f"{pictures} to draw, about {minutes} min here; those that the cache holds are not drawn again. Ctrl-C stops."
    )
