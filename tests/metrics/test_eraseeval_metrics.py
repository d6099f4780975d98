"""EraseEval's metrics beside the formulas, written out."""

from __future__ import annotations

import numpy as np
import pytest

from excise.metrics.eraseeval import kept_alignment, kept_quality, mean_reflected, reflected, single
from excise.metrics.estimate import Estimate
from excise.metrics.images import cmmd


def embeddings(seed, count, width=5):
    return np.random.default_rng(seed).normal(size=(count, width)) + 1


def test_reflected_is_the_mean_cosine_and_zero_where_the_concept_is_seen():
    original, erased, shows = embeddings(0, 4), embeddings(1, 3), [False, True, False]
    expected = []
    for e, seen in zip(erased, shows, strict=True):
        cosines = [float(o @ e / np.linalg.norm(o) / np.linalg.norm(e)) for o in original]
        expected.append([0.0] * 4 if seen else cosines)
    assert reflected(original, erased, shows) == pytest.approx(np.array(expected))
    mean = mean_reflected([reflected(original, erased, shows), np.ones((2, 2))])
    assert mean.value == pytest.approx((np.mean(expected) + 1) / 2)
    assert mean.low < mean.value < mean.high
    assert mean.n == 5


@pytest.mark.parametrize("after", [[20.0, 26.0, 30.0], [31.0, 32.0, 33.0]])
def test_kept_alignment_is_the_share_of_the_clip_score(after):
    before = [30.0, 28.0, 32.0]
    old, new = np.mean(before), np.mean(after)
    estimate = kept_alignment(before, after)
    assert estimate.value == pytest.approx(min(1, 1 - (old - new) / old))
    assert estimate.low <= estimate.value <= estimate.high <= 1


@pytest.mark.parametrize("worse", [0.0, 0.3, 50.0])
def test_kept_quality_is_less_the_relative_growth_of_cmmd(worse):
    before, real = embeddings(0, 12), embeddings(1, 9)
    after = before + worse * np.random.default_rng(2).normal(size=before.shape)
    old, new = cmmd(before, real), cmmd(after, real)
    estimate = kept_quality(before, after, real)
    assert estimate.value == pytest.approx(np.clip(1 - (new - old) / old, 0, 1))
    assert estimate.n == 12
    assert kept_quality(before, after, real) == estimate  # the same resamples


def test_the_single_score_is_low_where_any_is():
    def sure(value):
        return Estimate(value, value, value, 5)

    assert single([sure(v) for v in (0.5, 1, 1, 1)]).value == pytest.approx(4 / 5)
    assert single([sure(v) for v in (0.0, 1, 1, 1)]).value == 0
    wide = single([Estimate(0.5, 0.25, 1, 5), sure(1), sure(1), sure(1)])
    assert (wide.low, wide.high) == (pytest.approx(4 / 7), 1)
