"""Progress of encoding many prompts, passed around the calls in between."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_report: ContextVar[Callable[[int, int], None] | None] = ContextVar("_report", default=None)


@contextmanager
def encoding(report: Callable[[int, int], None]) -> Iterator[None]:
    """Let `report` receive the number of prompts that are encoded, and of all, for calls inside the block."""
    before = _report.set(report)
    try:
        yield
    finally:
        _report.reset(before)


def encoded(done: int, total: int) -> None:
    """Tell that `done` of `total` prompts of one call are encoded."""
    report = _report.get()
    if report is not None:
        report(done, total)
