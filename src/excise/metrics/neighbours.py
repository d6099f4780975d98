"""Damage to other concepts by their distance from the target; HUB (arXiv 2410.05664) calls this pinpoint-ness."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from excise.metrics.paired import paired_difference
from excise.metrics.rates import Estimate, rate


@dataclass(frozen=True)
class DistanceBin:
    """The names whose distance from the target is in [`low`, `high`), in the last bin [`low`, `high`].

    Attributes:
        before: share of the names that the untouched model shows.
        after: share of the names that the edited model shows.
        damage: before - after, with an interval from paired resampling.
    """

    low: float
    high: float
    before: Estimate
    after: Estimate
    damage: Estimate


def neighbour_damage(
    distances: Sequence[float] | np.ndarray,
    right_before: Sequence[bool] | np.ndarray,
    right_after: Sequence[bool] | np.ndarray,
    bins: int = 5,
    seed: int = 0,
) -> list[DistanceBin]:
    """Return the damage in each bin of distance from the target, nearest bin first.

    Args:
        distances: (n,) distance of each name from the target in the space of the text encoder.
        right_before: (n,) whether the judge saw the name in the image of the untouched model.
        right_after: (n,) the same for the edited model, on the same prompts and seeds.
        bins: number of bins, with quantiles of the distances as edges; equal distances may leave fewer.
        seed: of the resampling for the interval of the damage.

    Raises:
        ValueError: lengths differ, a distance is not finite, or a bin would contain fewer than two names.
    """
    d = np.asarray(distances, dtype=float)
    before, after = np.asarray(right_before, dtype=bool), np.asarray(right_after, dtype=bool)
    if d.ndim != 1 or not d.shape == before.shape == after.shape:
        raise ValueError(f"shapes {d.shape}, {before.shape} and {after.shape}; all must be (n,)")
    if not np.isfinite(d).all():
        raise ValueError("a distance is not finite")
    if bins < 1 or len(d) < 2 * bins:
        raise ValueError(f"{len(d)} names for {bins} bins; needs at least one bin and two names in each")
    edges = np.unique(np.quantile(d, np.linspace(0, 1, bins + 1)))
    where = np.searchsorted(edges[1:-1], d, side="right")
    rows = []
    for i in range(max(1, len(edges) - 1)):
        inside = where == i
        if inside.sum() < 2:
            raise ValueError(
                f"{inside.sum()} names in bin {i + 1} of {bins}; too many share a distance, take fewer bins"
            )
        damage = paired_difference(before[inside], after[inside], np.flatnonzero(inside), seed)
        high = edges[min(i + 1, len(edges) - 1)]
        rows.append(DistanceBin(float(edges[i]), float(high), rate(before[inside]), rate(after[inside]), damage))
    return rows
