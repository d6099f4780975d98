"""How a long job reports its progress."""

from __future__ import annotations

from collections.abc import Callable

Report = Callable[[str, float, int], None]
"""Receives the name of a stage, the number of its steps that are done (with the part of the one at hand), and their
total number; a total of 0 where it is not known."""


def silent(stage: str, done: float, total: int) -> None:
    """Report nothing."""


def part_of(say: Report, stage: str, at: int, total: int) -> Callable[[float, int], None]:
    """Return what receives the progress of step `at` of a stage as pictures done and pictures in all.

    >>> seen = []
    >>> part_of(lambda *told: seen.append(told), "calibrating", 2, 10)(5, 20)
    >>> seen
    [('calibrating', 2, 10), ('calibrating', 2.25, 10)]
    """
    say(stage, at, total)
    return lambda done, count: say(stage, at + min(1.0, done / max(1, count)), total)
