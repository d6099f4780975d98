"""Progress inside the long calls of a model: many prompts that are encoded, the steps of a batch that is drawn."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

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


def step_callback(watch: Callable[[float], None], steps: int) -> Callable[..., dict[str, Any]]:
    """Return a callback of a pipeline that passes on the share of the steps, short of the last, which decodes."""

    def step_ended(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        watch((step + 1) / (steps + 1))
        return {}

    return step_ended


def part_of(watch: Callable[[float], None] | None, done: float, share: float) -> Callable[[float], None] | None:
    """Return what a part of a batch reports to: the part is `share` of the batch, of which `done` is drawn already."""
    return None if watch is None else lambda own: watch(done + own * share)
