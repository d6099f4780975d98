"""Choosing some of many."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


def evenly(items: Sequence[T], most: int) -> list[T]:
    """At most `most` of them, spread over the whole list.

    >>> evenly("abcdef", 3)
    ['a', 'c', 'e']
    """
    count = min(most, len(items))
    return [items[i * len(items) // count] for i in range(count)]


def farthest(points: Tensor, count: int, first: int) -> list[int]:
    """Farthest-point sampling: each next point is the one farthest from all chosen so far (Gonzalez, 1985).

    Args:
        points: (n, d). first: the row to begin with.

    Returns:
        Up to `count` rows, in the order of choice; ties go to the lower row.
    """
    chosen = [first]
    nearest = torch.cdist(points, points[first : first + 1]).squeeze(1)
    while len(chosen) < min(count, len(points)):
        nearest[chosen] = -1.0
        chosen.append(int(nearest.argmax()))
        nearest = torch.minimum(nearest, torch.cdist(points, points[chosen[-1:]]).squeeze(1))
    return chosen
