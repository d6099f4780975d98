"""Choose a subset: evenly spaced items of a list, or points far from each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")


def evenly(items: Sequence[T], most: int) -> list[T]:
    """Return at most `most` items, evenly spaced over the list, the first among them.

    >>> evenly("abcdef", 3)
    ['a', 'c', 'e']
    """
    count = min(most, len(items))
    return [items[i * len(items) // count] for i in range(count)]


def farthest(points: Tensor, count: int, first: int) -> list[int]:
    """Farthest-point sampling: each next point is the one farthest from all chosen so far (Gonzalez, 1985).

    Args:
        points: (n, d).
        count: how many points to choose.
        first: index of the first point.

    Returns:
        Up to `count` indices, in the order of choice; of equally far points the lower index.
    """
    import torch

    chosen = [first]
    nearest = torch.cdist(points, points[first : first + 1]).squeeze(1)
    while len(chosen) < min(count, len(points)):
        nearest[chosen] = -1.0
        chosen.append(int(nearest.argmax()))
        nearest = torch.minimum(nearest, torch.cdist(points, points[chosen[-1:]]).squeeze(1))
    return chosen
