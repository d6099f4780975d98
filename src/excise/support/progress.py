"""How a long job reports its progress."""

from __future__ import annotations

from collections.abc import Callable

Report = Callable[[str, int, int], None]
"""Receives the name of a stage, the number of its steps that are done, and their total number."""


def silent(stage: str, done: int, total: int) -> None:
    """Report nothing."""
