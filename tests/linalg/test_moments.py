"""Second moments: equal to their products, whatever repeats."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from excise.linalg import moments


def rows(n: int, d: int, seed: int = 0) -> torch.Tensor:
    return torch.randn((n, d), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("shape", [(0, 3), (5, 1), (40, 63), (40, 64), (40, 65), (7, 300)])
def test_a_gram_matrix_is_its_product_and_symmetric(shape):
    x = rows(*shape)
    assert_close(moments.gram(x), x.mT @ x, rtol=1e-12, atol=1e-12)
    assert torch.equal(moments.gram(x), moments.gram(x).mT)


@settings(max_examples=50)
@given(st.integers(1, 40), st.integers(1, 8), st.integers(1, 6), st.integers(0, 1000))
def test_cross_moments_sum_what_belongs_to_the_same_row(n, d, kinds, seed):
    which = torch.randint(kinds, (n,), generator=torch.Generator().manual_seed(seed))
    left, x = rows(kinds, d, seed)[which], rows(n, d, seed + 1)
    assert_close(moments.cross(left, x), left.mT @ x, rtol=1e-10, atol=1e-10)
    some, index = moments.distinct(left)
    assert torch.equal(some[index], left)
    assert len(some) == len(which.unique())


def test_rows_with_the_same_hash_are_told_apart(monkeypatch):
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]], dtype=torch.float64)
    monkeypatch.setattr(torch, "randint", lambda *args, **kwargs: torch.zeros(2, dtype=torch.int64))
    some, index = moments.distinct(x)
    assert torch.equal(some[index], x)
    assert len(some) == 2


def test_no_rows_are_no_rows():
    some, index = moments.distinct(rows(0, 4))
    assert some.shape == (0, 4)
    assert index.shape == (0,)
