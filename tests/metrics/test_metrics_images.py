"""Distances between sets of images against naive references, and what bias looks like."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.linalg import sqrtm
from scipy.spatial.distance import cdist

from excise.metrics.images import cmmd, drift, kid


def normal(n, d=8, shift=0.0, seed=0):
    return np.random.default_rng(seed).normal(shift, 1, size=(n, d))


def naive_mmd(x, y):
    """Unbiased MMD^2 under the cubic kernel, sum by sum."""
    d, m = x.shape[1], len(x)
    k = lambda p, q: (p @ q / d + 1) ** 3  # noqa: E731
    within = sum(k(f[i], f[j]) for f in (x, y) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return within - 2 * sum(k(p, q) for p in x for q in y) / m**2


def test_kid_of_one_full_subset_is_the_unbiased_mmd():
    x, y = normal(6, seed=1), normal(6, shift=0.5, seed=2)
    found = kid(x, y, subsets=1, subset_size=6)
    assert found.value == found.low == found.high == pytest.approx(naive_mmd(x, y), rel=1e-9)
    assert found.n == 6


def test_kid_by_hand():
    # d = 1: k(1, 1) = 8 and k(1, -1) = 0, so 8 + 8 - 2 * 0 with sets all 1 and all -1
    assert kid(np.ones((2, 1)), -np.ones((2, 1)), subsets=3, subset_size=2).value == pytest.approx(16)


def test_kid_is_centred_on_zero_where_fid_is_not():
    pairs = [(normal(100, seed=2 * i), normal(100, seed=2 * i + 1)) for i in range(40)]
    kids = np.array([kid(x, y, subsets=20).value for x, y in pairs])
    assert abs(kids.mean()) < 3 * kids.std() / np.sqrt(len(kids))
    assert kids.min() < 0 < kids.max()
    fids = {n: np.mean([fid(x[:n], y[:n]) for x, y in pairs]) for n in (50, 100)}
    assert fids[100] > 0.1
    assert fids[50] / fids[100] == pytest.approx(2, rel=0.25)  # the bias falls like 1 / n


def fid(x, y):
    s, t = np.cov(x.T), np.cov(y.T)
    return float(((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(s + t - 2 * sqrtm(s @ t).real))


def test_kid_grows_with_the_shift_and_is_seeded():
    values = [kid(normal(200, seed=1), normal(200, shift=s, seed=2)).value for s in (0.0, 0.3, 0.6, 1.2)]
    assert values == sorted(values)
    x, y = normal(60, seed=3), normal(50, shift=0.2, seed=4)
    assert kid(x, y) == kid(x, y)
    assert kid(x, y, seed=1) != kid(x, y)
    found = kid(x, y)
    assert found.low < found.value < found.high
    assert found.n == 50


def test_kid_leaves_the_global_generators_alone():
    import torch

    state, torch_state = np.random.get_state()[1].copy(), torch.get_rng_state()
    kid(normal(20), normal(20, seed=1), subsets=2)
    assert (np.random.get_state()[1] == state).all()
    assert torch.equal(torch.get_rng_state(), torch_state)


@pytest.mark.parametrize(
    ("shapes", "options", "message"),
    [
        (((9, 3), (9, 4)), {}, "one width"),
        (((9,), (9,)), {}, "one width"),
        (((0, 3), (9, 3)), {}, "one width"),
        (((3, 3), (9, 3)), {}, "at least 2"),
        (((9, 3), (8, 3)), {"subset_size": 9}, "at most the 8"),
        (((9, 3), (8, 3)), {"subsets": 0}, "subsets"),
    ],
)
def test_kid_refuses(shapes, options, message):
    with pytest.raises(ValueError, match=message):
        kid(np.ones(shapes[0]), np.ones(shapes[1]), **options)


finite = st.floats(-3, 3).map(lambda v: v + 3.5)  # never a zero vector


@given(arrays.arrays(float, (5, 3), elements=finite), arrays.arrays(float, (4, 3), elements=finite))
def test_cmmd_is_the_printed_formula(x, y):
    a, b = (f / np.linalg.norm(f, axis=1, keepdims=True) for f in (x, y))
    k = lambda p, q: np.exp(-(cdist(p, q) ** 2) / (2 * 10**2)).mean()  # noqa: E731
    assert cmmd(x, y) == pytest.approx(1000 * (k(a, a) + k(b, b) - 2 * k(a, b)), abs=1e-8)
    assert cmmd(x, y) >= 0
    assert cmmd(x, x) == pytest.approx(0, abs=1e-12)
    assert cmmd(7 * x, y) == pytest.approx(cmmd(x, y), abs=1e-9)


def test_cmmd_by_hand_and_refusals():
    opposite = 1000 * 2 * (1 - np.exp(-4 / 200))
    assert cmmd(np.array([[1.0, 0.0]]), np.array([[-2.0, 0.0]])) == pytest.approx(opposite)
    with pytest.raises(ValueError, match="direction"):
        cmmd(np.zeros((2, 3)), np.ones((2, 3)))
    with pytest.raises(ValueError, match="one width"):
        cmmd(np.ones((2, 3)), np.ones((2, 4)))


def test_drift_by_hand():
    black, white = np.zeros((2, 4, 4, 3), dtype=np.uint8), np.full((2, 4, 4, 3), 255, dtype=np.uint8)
    half = black.copy()
    half[1, :2] = 255
    assert drift(black, white).tolist() == [1, 1]
    assert drift(black, half).tolist() == [0, 0.5]
    assert drift(black / 255, half).tolist() == [0, 0.5]  # floating point and bytes mix


@given(arrays.arrays(np.uint8, (3, 2, 2, 3)), arrays.arrays(np.uint8, (3, 2, 2, 3)))
def test_drift_is_a_distance_within_0_and_1(x, y):
    assert ((drift(x, y) >= 0) & (drift(x, y) <= 1)).all()
    assert (drift(x, y) == drift(y, x)).all()
    assert (drift(x, x) == 0).all()


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (np.zeros((2, 4)), np.zeros((3, 4)), "shapes"),
        (np.zeros((0, 4)), np.zeros((0, 4)), "shapes"),
        (np.zeros((2, 4)), np.full((2, 4), 255.0), "within 0..1"),
        (np.zeros((2, 4)), np.full((2, 4), np.nan), "within 0..1"),
        (np.zeros((2, 4)), np.zeros((2, 4), dtype=int), "uint8"),
    ],
)
def test_drift_refuses(a, b, message):
    with pytest.raises(ValueError, match=message):
        drift(a, b)
