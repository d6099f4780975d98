"""The weight changes that a method made, and how two of them are combined."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from excise.edits.deltas import Delta, Dense, LowRank, TextMap
from excise.families.maps import Projection


@dataclass(frozen=True)
class Solution:
    """Changes of weights, as an `Edit` holds them.

    Attributes:
        text_maps: changes of text states, each shared by several projections.
        modules: changes of single weights, by module path.
    """

    text_maps: tuple[TextMap, ...] = ()
    modules: Mapping[str, Delta] | None = None


def joined(one: Solution, two: Solution) -> Solution:
    """Combine two solutions for different projections."""
    return Solution((*one.text_maps, *two.text_maps), {**(one.modules or {}), **(two.modules or {})})


def as_deltas(solution: Solution, weights: Mapping[str, Tensor]) -> dict[str, Delta]:
    """Each weight's change by itself, by path.

    Args:
        weights: as they are without it, of every path.
    """
    shared = {path: m.low_rank(weights[path]) for m in solution.text_maps for path in m.modules}
    return {**shared, **(solution.modules or {})}


def in_rows(solution: Solution, group: Sequence[Projection], weights: Mapping[str, Tensor]) -> Solution:
    """A solution for some rows of fused maps as one for their whole weights, whose other rows stay.

    Args:
        solution: for the rows of each projection.
        group: the projections.
        weights: the whole weights by path.
    """
    fused = {p.path: p.rows for p in group if p.rows is not None}
    if not fused:
        return solution
    modules = dict(solution.modules or {})
    for shared in solution.text_maps:
        modules.update((p, shared.low_rank(weights[p][fused[p]])) for p in shared.modules if p in fused)
    kept = [TextMap(m.u, m.v, tuple(p for p in m.modules if p not in fused)) for m in solution.text_maps]

    def tall(x: Tensor, path: str) -> Tensor:
        whole = x.new_zeros(len(weights[path]), x.shape[1])
        whole[fused[path]] = x
        return whole

    for path in fused:
        change = modules[path]
        modules[path] = (
            LowRank(tall(change.b, path), change.a) if isinstance(change, LowRank) else Dense(tall(change.dw, path))
        )
    return Solution(tuple(m for m in kept if m.modules), modules)


def widened(solution: Solution, widths: Mapping[str, int]) -> Solution:
    """Extend a solution for the first columns of weights with zeros for the other columns.

    Args:
        solution: for the first columns.
        widths: number of columns of the whole weight, by module path.
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
