"""UCE against its formula term by term, its optimality condition, and its limits."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import problem, text_problems, weights_for
from torch.testing import assert_close

from excise.methods.closed_form.text_problem import TextProblem
from excise.methods.closed_form.uce import UCE, solve_map
from excise.methods.closed_form.uce_config import UCEConfig

weights_ = st.floats(0.1, 10)


def naive(W: torch.Tensor, p: TextProblem, c: UCEConfig) -> torch.Tensor:
    """Equation 7 of the paper, one outer product at a time."""
    d = W.shape[1]
    left, right = c.ridge * W, c.ridge * torch.eye(d, dtype=W.dtype)
    for o, n in zip(p.targets, p.anchors, strict=True):
        left = left + c.erase_scale * torch.outer(W @ n, o)
        right = right + c.erase_scale * torch.outer(o, o)
    for r in p.retain:
        left = left + c.retain_scale * torch.outer(W @ r, r)
        right = right + c.retain_scale * torch.outer(r, r)
    return left @ torch.linalg.inv(right)


def objective(new: torch.Tensor, W: torch.Tensor, p: TextProblem, c: UCEConfig) -> torch.Tensor:
    return (
        c.erase_scale * (new @ p.targets.mT - W @ p.anchors.mT).square().sum()
        + c.retain_scale * ((new - W) @ p.retain.mT).square().sum()
        + c.ridge * (new - W).square().sum()
    )


@settings(max_examples=60, deadline=None)
@given(text_problems(), weights_, weights_, weights_, st.integers(0, 1000))
def test_equals_the_formula_and_is_the_minimum(p, s, keep, ridge, seed):
    config = UCEConfig(erase_scale=s, retain_scale=keep, ridge=ridge, fixed="none")
    for W in weights_for(p, seed).values():
        U, V = solve_map(p, config)
        edited = W + (W @ U) @ V
        assert_close(edited, naive(W, p, config), rtol=1e-8, atol=1e-8)
        slope = torch.func.grad(objective)(edited, W, p, config)
        assert slope.abs().max() <= 1e-8 * (1 + objective(W, W, p, config))


@settings(max_examples=40, deadline=None)
@given(text_problems(), st.sampled_from(["start", "start_and_null"]), st.integers(0, 1000))
def test_fixed_states_do_not_move_and_the_rest_is_optimal(p, fixed, seed):
    config = UCEConfig(fixed=fixed)
    K = p.start[:, None] if fixed == "start" else torch.cat([p.start[None], p.null]).mT
    U, V = solve_map(p, config)
    for W in weights_for(p, seed).values():
        change = (W @ U) @ V
        assert (change @ K).abs().max() <= 1e-7 * (1 + W.abs().max())
        # The slope may only point where moving is forbidden: nothing of it is left outside the span of K.
        slope = torch.func.grad(objective)(W + change, W, p, config)
        free = torch.eye(K.shape[0], dtype=K.dtype) - K @ torch.linalg.pinv(K)
        assert (slope @ free).abs().max() <= 1e-6 * (1 + slope.abs().max())


def test_no_weight_on_erasing_changes_nothing():
    p = problem(
        *(torch.randn(3, 8, dtype=torch.float64) for _ in range(3)), torch.ones(8).double(), torch.eye(8).double()
    )
    U, V = solve_map(p, UCEConfig(erase_scale=0.0))
    assert (U @ V).abs().max() == 0


def test_one_map_for_all_layers_as_thin_as_its_rank():
    torch.manual_seed(0)
    rows = torch.randn(2, 12, dtype=torch.float64)
    p = problem(rows.repeat(4, 1), (2 * rows).repeat(4, 1), torch.randn(5, 12).double(), rows[0], rows)
    solution = UCE().solve(p, weights_for(p, 1), UCEConfig(fixed="none"), torch.Generator())
    (text_map,) = solution.text_maps
    assert text_map.modules == ("layer3", "layer7", "layer20")
    assert text_map.u.shape == (12, 2)  # eight rows, two of them distinct


def test_fixed_to_the_target_itself_leaves_nothing_to_erase():
    p = problem(
        torch.eye(4)[:1].double(),
        torch.eye(4)[1:2].double(),
        torch.zeros(0, 4).double(),
        torch.eye(4)[0].double(),
        torch.zeros(0, 4).double(),
    )
    U, V = solve_map(p, UCEConfig(fixed="start"))
    assert (U @ V).abs().max() == pytest.approx(0, abs=1e-12)
