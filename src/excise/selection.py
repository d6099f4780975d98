"""Choosing some of many."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def evenly(items: Sequence[T], most: int) -> list[T]:
    """At most `most` of them, spread over the whole list.

    >>> evenly("abcdef", 3)
    ['a', 'c', 'e']
    """
    count = min(most, len(items))
    return [items[i * len(items) // count] for i in range(count)]
