"""Deltas that a method solved for, and how two sets of them are joined."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from excise.edits.deltas import Delta, Dense, LowRank, TextMap


@dataclass(frozen=True)
class Solution:
    """Deltas, in the shapes that `Edit` holds."""

    text_maps: tuple[TextMap, ...] = ()
    modules: Mapping[str, Delta] | None = None


def joined(one: Solution, two: Solution) -> Solution:
    """Two solutions for different projections as one."""
    return Solution((*one.text_maps, *two.text_maps), {**(one.modules or {}), **(two.modules or {})})


def widened(solution: Solution, widths: Mapping[str, int]) -> Solution:
    """A solution for the first columns of some weights, with zeros for the columns behind them.

    Args:
        widths: by module path, the columns of its whole weight.
    """

    def wide(x: Tensor, path: str) -> Tensor:
        return F.pad(x, (0, widths[path] - x.shape[1]))

    maps = tuple(
        TextMap(wide(m.u.mT, path).mT, wide(m.v, path), (path,)) for m in solution.text_maps for path in m.modules
    )
    modules: dict[str, Delta] = {
        path: LowRank(d.b, wide(d.a, path)) if isinstance(d, LowRank) else Dense(wide(d.dw, path))
        for path, d in (solution.modules or {}).items()
    }
    return Solution(maps, modules)
