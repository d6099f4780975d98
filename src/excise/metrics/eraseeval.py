"""The four metrics of EraseEval and their single score, from embeddings and scores (arXiv 2502.13989)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from excise.metrics.estimate import Estimate
from excise.metrics.images import CMMD_SCALE, cmmd_kernel, unit_rows
from excise.metrics.rates import RESAMPLES, bootstrap

CAPTION_RESAMPLES = 200


def reflected(original: np.ndarray, erased: np.ndarray, shows: Sequence[bool]) -> np.ndarray:
    """Return the cosine of each image of the edited model to each of the original one, (m, n).

    It is 0 for an image that still shows the concept. M1 and M2 are the mean of all.

    Args:
        original: (n, d) embeddings of the images that the original model draws of a prompt.
        erased: (m, d) of those of the edited model.
        shows: (m,) whether the concept is seen.

    Raises:
        ValueError: an embedding is zero.
    """
    a, b = unit_rows(np.asarray(original, np.float64), np.asarray(erased, np.float64))
    cosines: np.ndarray = np.where(np.asarray(shows, bool)[:, None], 0.0, b @ a.T)
    return cosines


def mean_reflected(cosines: Sequence[np.ndarray], seed: int = 0) -> Estimate:
    """Return the mean over concepts of the mean cosine, M1 or M2; the interval resamples the images of both models.

    Args:
        cosines: of each concept, (m, n) as `reflected` returns them.
        seed: of the resampling.
    """
    rng = np.random.default_rng(seed)

    def drawn() -> float:
        rows = [c[np.ix_(*(rng.integers(size, size=size) for size in c.shape))] for c in cosines]
        return float(np.mean([r.mean() for r in rows]))

    low, high = np.quantile([drawn() for _ in range(RESAMPLES)], [0.025, 0.975])
    return Estimate(float(np.mean([c.mean() for c in cosines])), float(low), float(high), sum(map(len, cosines)))


def kept_alignment(before: Sequence[float], after: Sequence[float]) -> Estimate:
    """Return M3, min(1, 1 - (CS_o - CS_e) / CS_o) of the mean scores of images and captions before and after.

    Args:
        before, after: (n,) scores of the same captions, above 0 in the mean. The interval resamples captions.
    """
    pairs = np.stack([np.asarray(before, np.float64), np.asarray(after, np.float64)], axis=1)
    return bootstrap(list(pairs[:, None]), lambda rows: min(1.0, float(rows[:, 1].mean() / rows[:, 0].mean())))


def kept_quality(before: np.ndarray, after: np.ndarray, real: np.ndarray, seed: int = 0) -> Estimate:
    """Return M4, 1 - (CMMD_e - CMMD_o) / CMMD_o within 0..1, of distances to real pictures.

    Args:
        before, after: (n, d) embeddings of the same captions' images by the original and by the edited model.
        real: (m, d) embeddings of real pictures.
        seed: of the interval's resampling of captions, the same captions of both models together.

    Raises:
        ValueError: an embedding is zero.
    """
    old, new, there = unit_rows(*(np.asarray(f, np.float64) for f in (before, after, real)))
    within, own = float(cmmd_kernel(there, there).mean()), [cmmd_kernel(f, f) for f in (old, new)]
    across = [cmmd_kernel(f, there).mean(axis=1) for f in (old, new)]

    def kept(weights: np.ndarray) -> float:
        each = zip(own, across, strict=True)
        far = [CMMD_SCALE * (weights @ k @ weights + within - 2 * weights @ c) for k, c in each]
        return float(np.clip(1 - (far[1] - far[0]) / far[0], 0, 1)) if far[0] > 0 else float(far[1] <= 0)

    n = len(old)
    rng = np.random.default_rng(seed)
    drawn = [kept(rng.multinomial(n, np.full(n, 1 / n)) / n) for _ in range(CAPTION_RESAMPLES)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Estimate(kept(np.full(n, 1 / n)), float(low), float(high), n)


def single(estimates: Sequence[Estimate]) -> Estimate:
    """Return the harmonic mean, which is low where any of the four is; 0 where one is not above 0.

    The form of the paper's own score is not public, so figures under this name are of this package alone. The interval
    takes all four at their low ends, and all at their high ends: it is wider than one of 95 %.
    """
    value, low, high = (_harmonic([getattr(e, end) for e in estimates]) for end in ("value", "low", "high"))
    return Estimate(value, low, high, min(e.n for e in estimates))


def _harmonic(values: Sequence[float]) -> float:
    return len(values) / sum(1 / v for v in values) if min(values) > 0 else 0.0
