"""Metrics against values worked out by hand and against scipy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from excise.metrics.rates import bootstrap, harmonic_mean, harmonic_of_rates, rate
from excise.metrics.unlearning import Seen, accuracy_grid, replacements, unlearning


@given(st.integers(1, 300).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_rate_is_the_wilson_interval(hits_n):
    hits, n = hits_n
    found = rate([True] * hits + [False] * (n - hits))
    interval = binomtest(hits, n).proportion_ci(method="wilson")
    assert found.value == hits / n
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), abs=1e-9)


def test_rate_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        rate([])


def test_harmonic_mean():
    assert harmonic_mean([1, 1, 0.25]) == pytest.approx(0.5)
    assert harmonic_mean([1, 0]) == 0
    found = harmonic_of_rates([[True] * 9 + [False], [True] * 50 + [False] * 50])
    assert found.value == pytest.approx(2 / (1 / 0.9 + 1 / 0.5))
    assert found.low < found.value < found.high
    assert found == harmonic_of_rates([[True] * 9 + [False], [True] * 50 + [False] * 50])


def test_bootstrap_resamples_clusters_not_observations():
    clusters = [np.full(20, v, dtype=float) for v in (0.0, 1.0, 0.0, 1.0)]
    wide = bootstrap(clusters, np.mean)
    narrow = bootstrap([np.array([v]) for c in clusters for v in c], np.mean)
    assert wide.value == narrow.value == 0.5
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)


SEEN = Seen(
    {"object": ["cat", "cat", "dog", "dog", "dog", "car"], "style": ["neon", "dots", "neon", "dots", "neon", "dots"]},
    {"object": ["dog", "cat", "dog", "dog", "none", "car"], "style": ["neon", "dots", "neon", "neon", "neon", "dots"]},
)


def test_unlearning_of_an_object_by_hand():
    found = unlearning(SEEN, [("object", "cat")])
    assert found["ua"].value == 1 / 2  # one of two cat prompts shows no cat
    assert found["ira"].value == 3 / 4  # dog, dog, -, car
    assert found["cra"].value == 3 / 4  # one dots became neon
    assert found["h"].value == pytest.approx(3 / (2 + 4 / 3 + 4 / 3))


def test_unlearning_of_a_style_and_of_both():
    found = unlearning(SEEN, [("style", "dots")])
    assert (found["ua"].value, found["ira"].value, found["cra"].value) == (1 / 3, 1, 1 / 3)
    both = unlearning(SEEN, [("object", "cat"), ("style", "dots")])
    assert both["ua"].n == 2 + 3
    assert both["ira"].n == 2 * 2  # the two neon dogs, for both attributes


def test_replacements_and_grid():
    assert replacements(SEEN, "object", "cat") == {"dog": 1, "cat": 1}
    nothing: dict[str, list[str]] = {"object": [], "style": []}
    assert replacements(Seen(nothing, nothing), "object", "cat") == {}
    grid = accuracy_grid(SEEN, "object", ["cat", "car"], ["neon", "dots"])
    assert grid[0].tolist() == [0, 1]
    assert np.isnan(grid[1, 0])
    assert grid[1, 1] == 1
