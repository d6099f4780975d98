"""AdaVD against its formula, its limits, and on models: unrelated prompts stay, every family."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from excise import erase
from excise.families import family_of
from excise.methods.inference.adavd import Shift, target_part


def naive(values, targets, shift):
    """Gram-Schmidt and the weight of each target, one position after another."""
    basis = []
    for t in targets:
        rest = t - sum((torch.dot(q, t) * q for q in basis), torch.zeros_like(t))
        basis.append(rest / rest.norm())
    Q = torch.stack(basis)
    out = torch.zeros_like(values)
    for b in range(values.shape[0]):
        for at in range(1, values.shape[1]):
            v = values[b, at]
            inside = Q.mT @ (Q @ v)
            coordinates = torch.linalg.lstsq(targets.mT, inside[:, None]).solution[:, 0]
            for a, t in zip(coordinates, targets, strict=True):
                c = float(torch.dot(v, t) / v.norm() / t.norm())
                out[b, at] += shift.height / (1 + math.exp(-shift.slope * (c - shift.centre))) * a * t
    return out


@given(st.integers(1, 3), st.integers(0, 10_000), st.floats(-1, 1), st.floats(1, 30))
def test_the_part_is_that_of_the_formula(count, seed, centre, slope):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(2, 4, 6, generator=generator, dtype=torch.float64)
    targets = torch.randn(count, 6, generator=generator, dtype=torch.float64)
    shift = Shift(slope, centre, 2.0)
    assert_close(target_part(values, targets, shift), naive(values, targets, shift), rtol=1e-6, atol=1e-8)


def test_at_the_centre_the_target_is_projected_out_and_the_start_token_stays():
    t = torch.tensor([[3.0, 4.0]])
    values = torch.tensor([[[3.0, 4.0], [3.0, 4.0], [6.0, 8.0], [4.0, -3.0]]])
    part = target_part(values, t, Shift(centre=1.0))
    assert_close(part, torch.tensor([[[0.0, 0.0], [3.0, 4.0], [6.0, 8.0], [0.0, 0.0]]]), rtol=1e-4, atol=1e-4)


def test_repeated_targets_and_their_order_change_nothing():
    values, targets = torch.randn(1, 5, 8), torch.randn(2, 8)
    wanted = target_part(values, targets, Shift(10, 0.2))
    assert_close(target_part(values, targets.flip(0), Shift(10, 0.2)), wanted, rtol=1e-3, atol=1e-5)
    assert_close(target_part(values, targets[[0, 0, 1]], Shift(10, 0.2)), wanted, rtol=1e-3, atol=1e-5)


def test_several_concepts_and_synonyms_are_targets(any_pipe):
    edit = erase(any_pipe, ["cat", "dog"], method="adavd", vocabulary=None)
    assert edit.hooks[0].words == ("cat", "dog")
    assert edit.hooks[0].states.shape == (2, family_of(any_pipe).projections("v")[0].module.in_features)


def test_values_are_those_of_the_formula_in_every_layer_and_nothing_else_moves(any_pipe):
    family = family_of(any_pipe)
    edit = erase(any_pipe, ["cat"], method="adavd", vocabulary=None, slope=20.0, centre=0.3)
    states = family.encode(["a cat on a table", "a tree"]).states
    target = family.encode(["cat"], ["cat"]).span(0, "last")
    maps = family.projections("kv")
    before = {p.path: p.module(states) for p in maps}
    with edit.apply(any_pipe):
        after = {p.path: p.module(states) for p in maps}
    for p in maps:
        part = target_part(before[p.path], p.module(target), Shift(20.0, 0.3)) if p.role == "v" else 0.0
        assert_close(after[p.path], before[p.path] - part, rtol=1e-4, atol=1e-5)


def test_where_no_value_is_near_the_target_a_prompt_stays(pipe):
    """The published weight below a cosine of 0.8 is under 5e-6."""
    family = family_of(pipe)
    edit = erase(pipe, ["cat"], method="adavd", vocabulary=None)
    x, t, condition = torch.randn(1, *family.latent_shape), torch.tensor([500]), family.condition(["dog tree car"])
    before = family.predict(x, t, condition)
    near = erase(pipe, ["cat"], method="adavd", vocabulary=None, centre=-1.0)
    states, target = family.encode(["dog tree car"]).states, family.encode(["cat"], ["cat"]).span(0, "last")
    largest = max(
        float(torch.cosine_similarity(p.module(states)[0, 1:], p.module(target), dim=-1).max())
        for p in family.projections("v")
    )
    with edit.apply(pipe):
        if largest < 0.8:
            assert_close(family.predict(x, t, condition), before, rtol=0, atol=1e-5)
    with near.apply(pipe):
        assert (family.predict(x, t, condition) - before).abs().max() > 1e-5


@pytest.mark.canvas
def test_an_unrelated_prompt_of_the_built_in_model_stays(canvas_family):
    edit = erase(canvas_family, ["cat"], method="adavd")
    x, t = torch.randn(1, *canvas_family.latent_shape), torch.tensor([500])
    condition = canvas_family.condition(["a picture of a house in neon style"])
    before = canvas_family.predict(x, t, condition)
    with edit.apply(canvas_family):
        assert_close(canvas_family.predict(x, t, condition), before, rtol=0, atol=1e-5)
