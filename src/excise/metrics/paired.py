"""Paired comparison of two models on the same prompts and seeds: McNemar's test and bootstrap intervals."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from excise.metrics.rates import Estimate, clustered_mean


@dataclass(frozen=True)
class McNemar:
    """Result of McNemar's test.

    Attributes:
        p: two-sided p value.
        b: number of images in which only the first model was right.
        c: number of images in which only the second model was right.
    """

    p: float
    b: int
    c: int


def mcnemar(a_right: Sequence[bool] | np.ndarray, b_right: Sequence[bool] | np.ndarray) -> McNemar:
    """Test, exactly and two-sided, whether two models are right equally often; p is 1 if they never differ.

    Source: McNemar, 1947.

    Args:
        a_right: (n,) whether the first model was right.
        b_right: (n,) the same for the second model, on the same prompts and seeds.

    Raises:
        ValueError: no images, or lengths differ.
    """
    from scipy.stats import binomtest  # takes a quarter of a second, and every report imports this file

    a, b = _pair(a_right, b_right)
    only_a, only_b = int(np.sum((a == 1) & (b == 0))), int(np.sum((a == 0) & (b == 1)))
    p = float(binomtest(only_a, only_a + only_b, 0.5).pvalue) if only_a + only_b else 1.0
    return McNemar(p, only_a, only_b)


def paired_difference(
    a: Sequence[float] | np.ndarray,
    b: Sequence[float] | np.ndarray,
    clusters: Sequence[Hashable] | np.ndarray,
    seed: int = 0,
) -> Estimate:
    """Return the mean of a - b with a 95 % interval from resampling whole clusters.

    Args:
        a: (n,) scores of the first model.
        b: (n,) scores of the second model, on the same prompts and seeds.
        clusters: (n,) cluster of each observation: its prompt, or (prompt, seed).
        seed: of the resampling.

    Raises:
        ValueError: lengths differ, or fewer than two clusters.
    """
    x, y = _pair(a, b)
    if len(clusters) != len(x):
        raise ValueError(f"{len(x)} observations and {len(clusters)} cluster ids; each observation needs one")
    if len(set(clusters)) < 2:
        raise ValueError("all observations are of one cluster; an interval needs at least two")
    return clustered_mean((x - y).tolist(), list(clusters), seed)


def _pair(a: Sequence[float] | np.ndarray, b: Sequence[float] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    if x.ndim != 1 or x.shape != y.shape or len(x) == 0:
        raise ValueError(f"shapes {x.shape} and {y.shape}; both must be (n,) of the same images, n at least 1")
    return x, y
