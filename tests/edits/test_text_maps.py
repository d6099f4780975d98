"""RECE, MACE's refinement and CURE: maps of the text, against their formulas written out layer by layer."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import problem, text_problems, weights_for
from torch.testing import assert_close

from excise.families import family_of
from excise.methods.closed_form.cure import CURE, expanded
from excise.methods.closed_form.cure_config import CUREConfig
from excise.methods.closed_form.mace import MACE
from excise.methods.closed_form.mace_config import MACEConfig
from excise.methods.closed_form.rece import RECE, solve_change
from excise.methods.closed_form.rece_config import RECEConfig
from excise.methods.closed_form.text_problem import encode, token_problem
from excise.methods.closed_form.uce import UCE
from excise.methods.closed_form.uce_config import UCEConfig


def edited(solution, W: torch.Tensor) -> torch.Tensor:
    (text_map,) = solution.text_maps
    return W + (W @ text_map.u) @ text_map.v


def naive_uce(W, targets, anchors, retain, keep, ridge, held=(), hold=0.0):
    left = ridge * W
    right = ridge * torch.eye(W.shape[1], dtype=W.dtype)
    for o, n in zip(targets, anchors, strict=True):
        left, right = left + torch.outer(W @ n, o), right + torch.outer(o, o)
    for rows, weight in ((retain, keep), (held, hold)):
        for r in rows:
            left, right = left + weight * torch.outer(W @ r, r), right + weight * torch.outer(r, r)
    return left @ torch.linalg.inv(right)


@settings(max_examples=40, deadline=None)
@given(
    text_problems(min_retain=1),
    st.integers(0, 3),
    st.sampled_from([1e-3, 0.1, 1.0]),
    st.integers(0, 1000),
    st.sampled_from([0.0, 1.0]),
)
def test_rece_equals_its_loop_over_layers_and_concepts(p, rounds, nu, seed, hold):
    config = RECEConfig(rounds=rounds, regularisation=nu, fixed="none", hold=hold)
    original = weights_for(p, seed)
    now = {path: naive_uce(W, p.targets, p.anchors, p.retain, 1.0, 0.5) for path, W in original.items()}
    for _ in range(rounds):
        left = nu * torch.eye(p.targets.shape[1], dtype=torch.float64)
        cross = torch.zeros_like(left)
        for path, W in original.items():
            left, cross = left + now[path].mT @ now[path], cross + now[path].mT @ W
        restoring = [torch.linalg.solve(left, cross @ c) for c in p.targets]
        now = {path: naive_uce(W, restoring, p.anchors, p.retain, 0.1, 0.1, p.targets, hold) for path, W in now.items()}
    solution = RECE().solve(p, original, config, torch.Generator())
    for path, W in original.items():
        assert_close(edited(solution, W), now[path], rtol=1e-6, atol=1e-6)


@settings(max_examples=40, deadline=None, derandomize=True)  # a bound that holds nearly always, not a theorem
@given(text_problems(min_retain=8), st.integers(1, 3), st.integers(0, 1000))
def test_a_round_does_not_bring_back_what_the_first_step_erased(p, rounds, seed):
    """Its map is fitted at states that restore the targets, far from them; `hold` is what keeps the targets gone."""
    weights = weights_for(p, seed, sizes=(20, 30))

    def left(n: int, hold: float) -> float:
        """How far from the anchors the targets are read."""
        solution = RECE().solve(p, weights, RECEConfig(rounds=n, hold=hold), torch.Generator())
        return sum(float((edited(solution, W) @ p.targets.mT - W @ p.anchors.mT).norm()) for W in weights.values())

    first = left(0, 0.0)
    assert left(rounds, 100.0) <= 1.1 * first + 0.05


def test_after_a_round_the_targets_are_harder_to_restore():
    """The objective of the search, at its minimum over all embeddings, is higher for what the round gave."""
    torch.manual_seed(0)
    d, nu = 12, 0.1
    eye = torch.eye(d).double()
    p = problem(*(torch.randn(2, d).double() for _ in range(3)), torch.randn(d).double(), torch.randn(3, d).double())
    weights = weights_for(p, 0, sizes=(20, 30))
    G = sum(W.mT @ W for W in weights.values())

    def hardest(rounds: int) -> float:
        X = eye + solve_change(p, G, RECEConfig(rounds=rounds, regularisation=nu))
        found = torch.linalg.solve(nu * eye + X.mT @ G @ X, X.mT @ G @ p.targets.mT)
        missed = X @ found - p.targets.mT
        return float((missed * (G @ missed)).sum() + nu * found.square().sum())

    assert hardest(0) < 0.9 * hardest(1)
    assert hardest(1) < hardest(3)


@settings(max_examples=40, deadline=None)
@given(text_problems(min_retain=1), st.floats(0.1, 5), st.floats(0.1, 5), st.integers(0, 1000))
def test_mace_equals_its_formula(p, keep, ridge, seed):
    for W in weights_for(p, seed).values():
        solution = MACE().solve(p, {"w": W}, MACEConfig(retain_scale=keep, ridge=ridge), torch.Generator())
        assert_close(
            edited(solution, W), naive_uce(W, p.targets, p.anchors, p.retain, keep, ridge), rtol=1e-7, atol=1e-7
        )


@pytest.mark.parametrize("anchor", ["dog", ""])
def test_mace_looks_at_the_words_around_the_target(any_pipe, anchor):
    """Rows are the same words of two prompts: those before the subject as they are, those after it one by one."""
    from excise import Concept

    family = family_of(any_pipe)
    template = "a picture of {} on grass"
    encoded = encode(family, [Concept("cat", anchor=anchor)], ["tree"], {"object": [template]})
    p = token_problem(encoded, MACEConfig())
    states, target = encoded.states, encoded.states.states[0]
    first, last = int(states.first[0]), int(states.last[0])
    assert (first, last) != (0, 0)
    assert_close(p.targets[:first], target[:first].double())
    assert_close(p.targets[first], target[last + 1].double())
    assert_close(p.anchors[:first], p.targets[:first], rtol=1e-4, atol=1e-4)  # causal encoders see no later words
    other = states.states[1]
    after = int(states.last[1]) + 1
    assert_close(p.anchors[first], other[after].double())
    rest = int(states.read[0].sum())
    assert len(p.targets) <= rest - (last - first + 1)


def naive_cure(rows, retain, a):
    """P_f - P_f P_r, dense."""

    def projector(states):
        _, S, V = torch.linalg.svd(states, full_matrices=False)
        r = S**2 / (S**2).sum().clamp(min=1e-300)
        return V.mT @ torch.diag(a * r / ((a - 1) * r + 1)) @ V

    P_f = projector(rows)
    return P_f - P_f @ projector(retain)


@settings(max_examples=40, deadline=None)
@given(
    text_problems(max_tokens=20),
    st.sampled_from([1.0, 2.0, 5.0]),
    st.sampled_from(["joint", "sequence"]),
    st.integers(0, 99),
)
def test_cure_equals_its_dense_form(p, a, combine, seed):
    config = CUREConfig(expansion=a, combine=combine)
    concepts = [p.targets] if combine == "joint" else [p.targets[p.owner == k] for k in range(len(p.subjects))]
    for W in weights_for(p, seed).values():
        wanted = W
        for rows in concepts:
            wanted = wanted - wanted @ naive_cure(rows, p.retain, a)
        assert_close(edited(CURE().solve(p, {"w": W}, config, torch.Generator()), W), wanted, rtol=1e-8, atol=1e-8)


def test_orthogonal_concepts_do_not_push_each_other():
    """Cleared of each other's directions, a sequence is the plain sum of its projections, whatever they share."""
    torch.manual_seed(0)
    rows = torch.randn(6, 16).double()
    rows[3:] += rows[:3]
    owner = torch.tensor([0, 0, 0, 1, 1, 1])
    p = problem(rows, rows, rows[:0], rows[0], rows[:1], owner)
    W = torch.randn(5, 16).double()
    new = edited(CURE().solve(p, {"w": W}, CUREConfig(combine="orthogonal"), torch.Generator()), W)
    (V_0, f_0), (V_1, f_1) = (expanded(rows[owner == k], 2.0) for k in (0, 1))
    V_1 = V_1 - V_1 @ V_0.mT @ V_0
    assert_close(new, W - W @ (V_0.mT * f_0) @ V_0 - W @ (V_1.mT * f_1) @ V_1, rtol=1e-9, atol=1e-9)
    assert (new @ (V_0.mT * (1 - f_0))).norm() < (W @ V_0.mT).norm()


@pytest.mark.parametrize("rows", [1, 8, 40])
def test_orthogonal_concepts_all_go(rows):
    """Also those with more states than directions, or many copies of one: no concept shields the next."""
    torch.manual_seed(0)
    d, m = 16, 4
    centres = torch.randn(m, d).double()
    targets = (centres[:, None] + 1e-3 * torch.randn(m, rows, d).double()).flatten(0, 1)
    p = problem(targets, targets, targets[:0], targets[0], targets[:1], torch.arange(m).repeat_interleave(rows))
    W = torch.randn(20, d).double()
    new = edited(CURE().solve(p, {"w": W}, CUREConfig(combine="orthogonal"), torch.Generator()), W)
    assert ((new @ centres.mT).norm(dim=0) < 0.15 * (W @ centres.mT).norm(dim=0)).all()


def test_cure_takes_a_lone_state_out_entirely():
    """One state has one direction with all the energy: f = 1, a projection."""
    torch.manual_seed(0)
    rows = torch.randn(1, 10).double()
    p = problem(rows, rows, rows[:0], rows[0], rows)
    W = torch.randn(4, 10).double()
    assert (edited(CURE().solve(p, {"w": W}, CUREConfig(), torch.Generator()), W) @ rows.mT).abs().max() < 1e-9


@pytest.mark.parametrize("method", [RECE, MACE, CURE, UCE])
def test_one_thin_map_for_all_layers(method):
    torch.manual_seed(0)
    p = problem(
        *(torch.randn(n, 12).double() for n in (2, 2, 3)), torch.randn(12).double(), torch.randn(3, 12).double()
    )
    (text_map,) = method().solve(p, weights_for(p, 1), method.Config(), torch.Generator()).text_maps
    assert text_map.modules == ("layer3", "layer7", "layer20")
    assert text_map.u.shape[1] <= 4  # two rows; RECE's round adds two more


def test_rece_without_rounds_is_uce():
    torch.manual_seed(0)
    p = problem(*(torch.randn(3, 8).double() for _ in range(3)), torch.randn(8).double(), torch.randn(3, 8).double())
    weights = weights_for(p, 0)
    for W in weights.values():
        one = edited(RECE().solve(p, weights, RECEConfig(rounds=0), torch.Generator()), W)
        assert_close(one, edited(UCE().solve(p, weights, UCEConfig(), torch.Generator()), W), rtol=1e-9, atol=1e-9)
