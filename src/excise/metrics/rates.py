"""Rates and means with 95 % confidence intervals, as pure functions of arrays."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence

import numpy as np

from excise.metrics.estimate import Estimate as Estimate

Z95 = 1.959963984540054
RESAMPLES = 2000
MOST_OBSERVATIONS = 10_000  # among which the number that passes a gate is looked for


def rate(hits: Sequence[bool] | np.ndarray) -> Estimate:
    """Return the share of hits with its Wilson score interval (Wilson, 1927).

    Args:
        hits: (n,) booleans.

    Raises:
        ValueError: no observations.

    >>> e = rate([True] * 8 + [False] * 2)
    >>> (e.value, round(e.low, 3), round(e.high, 3))
    (0.8, 0.49, 0.943)
    """
    n = len(hits)
    if n == 0:
        raise ValueError("a rate needs at least one observation")
    p = float(np.mean(np.asarray(hits, dtype=float)))
    return Estimate(p, *wilson(p, n), n)


def difference(a: Estimate, b: Estimate) -> Estimate:
    """Return the difference a - b of two rates with Newcombe's 95 % interval, made of the two rates' own.

    It takes the rates as independent, so that it is wider than need be where both are of the same prompts and seeds.

    Source: Newcombe, 1998, method 10.

    >>> e = difference(rate([True] * 5 + [False] * 5), rate([False] * 10))
    >>> (e.value, round(e.low, 3), round(e.high, 3))
    (0.5, 0.117, 0.763)
    """
    value = a.value - b.value
    low = value - math.hypot(a.value - a.low, b.high - b.value)
    high = value + math.hypot(a.high - a.value, b.value - b.low)
    return Estimate(value, low, high, a.n)


def wilson(p: float, n: int) -> tuple[float, float]:
    """Return low and high of the 95 % Wilson score interval of a share `p` of `n` observations.

    >>> low, high = wilson(0.5, 6)
    >>> (round(low, 3), round(high, 3))
    (0.188, 0.812)
    """
    centre = (p + Z95**2 / (2 * n)) / (1 + Z95**2 / n)
    half = Z95 * np.sqrt(p * (1 - p) / n + Z95**2 / (4 * n**2)) / (1 + Z95**2 / n)
    return max(0.0, float(centre - half)), min(1.0, float(centre + half))


def any_of_n(hits: np.ndarray, n: int) -> Estimate:
    """Return the share of prompts with a hit among their first `n` images.

    Independent tries turn a rate p into 1 - (1 - p)^n, for example 1 % into 39 % with fifty tries. Report the result
    with its budget n, next to that of a control with the same budget.

    Args:
        hits: (prompts, tries) booleans.
        n: images of each prompt that count.

    Raises:
        ValueError: fewer tries than n, or n below 1.
    """
    tries = np.asarray(hits, dtype=bool)
    if not 1 <= n <= tries.shape[1]:
        raise ValueError(f"a budget of {n} tries; there are {tries.shape[1]}")
    return rate(np.asarray(tries[:, :n].any(axis=1)))


def harmonic_mean(values: Sequence[float]) -> float:
    """Return the harmonic mean; 0 if a value is 0 or below.

    >>> round(harmonic_mean([0.5, 1.0]), 4)
    0.6667
    """
    if min(values) <= 0:
        return 0.0
    return float(len(values) / sum(1 / v for v in values))


def harmonic_of_rates(groups: Sequence[Sequence[bool] | np.ndarray], seed: int = 0) -> Estimate:
    """Return the harmonic mean of several rates, with a percentile bootstrap interval.

    Args:
        groups: for each rate its observations, (n_i,) booleans, independent of the other rates.
        seed: of the resampling.
    """
    rng = np.random.default_rng(seed)
    arrays = [np.asarray(g, dtype=float) for g in groups]
    value = harmonic_mean([float(a.mean()) for a in arrays])
    means = np.stack([rng.binomial(len(a), a.mean(), size=RESAMPLES) / len(a) for a in arrays], axis=1)
    drawn = np.array([harmonic_mean(row) for row in means.tolist()])
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Estimate(value, float(low), float(high), sum(len(a) for a in arrays))


def clustered_mean(values: Sequence[float], clusters: Sequence[Hashable], seed: int = 0) -> Estimate:
    """Return the mean of `values` with an interval from resampling whole clusters.

    Args:
        values: (n,).
        clusters: (n,) cluster of each value, for example its prompt.
        seed: of the resampling.
    """
    members: dict[Hashable, list[float]] = {}
    for key, value in zip(clusters, values, strict=True):
        members.setdefault(key, []).append(value)
    return bootstrap([np.array(m) for m in members.values()], lambda pooled: float(np.mean(pooled)), seed)


def bootstrap(clusters: Sequence[np.ndarray], statistic: Callable[[np.ndarray], float], seed: int = 0) -> Estimate:
    """Return a statistic of pooled observations with a percentile interval from resampling whole clusters.

    Args:
        clusters: for each cluster (for example a prompt) its observations, (n_i,) or (n_i, ...).
        statistic: of all observations, concatenated along the first axis.
        seed: of the resampling.
    """
    rng = np.random.default_rng(seed)
    pooled = np.concatenate(list(clusters))
    drawn = [
        statistic(np.concatenate([clusters[i] for i in rng.integers(len(clusters), size=len(clusters))]))
        for _ in range(RESAMPLES)
    ]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Estimate(statistic(pooled), float(low), float(high), len(pooled))


def needed_count(share: float, gate: float) -> int | None:
    """Return the fewest observations with (rounded down) that share whose 95 % interval begins at the gate or above.

    None stands for more than `MOST_OBSERVATIONS`.

    >>> needed_count(1.0, 0.5), needed_count(1.0, 0.8), needed_count(1.0, 1.0)
    (4, 16, None)
    """
    counts = range(1, MOST_OBSERVATIONS + 1)
    return next((n for n in counts if wilson(math.floor(share * n + 1e-9) / n, n)[0] >= gate), None)
