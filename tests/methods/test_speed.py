"""SPEED against its formulas written out: pseudo-inverses, projectors and every augmented row drawn for real."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import problem, text_problems, weights_for
from torch.testing import assert_close

from excise.linalg.solves import weakest_direction
from excise.methods.closed_form.speed import SPEED, _prepare, invariant_states, retained
from excise.methods.closed_form.speed_config import SPEEDConfig


def naive_moment(R, W, p, config, g):
    """The retain set of one layer row by row: probe, filter, draw, filter again, average of outer products."""
    k, d = p.targets.shape
    T = sum(torch.outer(c, c) for c in p.targets) / k
    S = sum(torch.outer(a - c, c) for a, c in zip(p.anchors, p.targets, strict=True)) / k
    probe = W @ S @ torch.linalg.inv(torch.eye(d, dtype=W.dtype) + T)
    influence = torch.stack([(probe @ c).norm() for c in R])
    kept = [c for c, i in zip(R, influence, strict=True) if i > influence.mean()] if config.filter else list(R)
    rows = list(kept)
    if config.augment == "directed":
        _, _, right = torch.linalg.svd(W, full_matrices=False)
        v = right[-1] * torch.sign(torch.dot(right[-1], weakest_direction(W)))
        for start in range(0, len(kept), config.chunk):
            copies = [
                kept[i] + g[i, j] * v
                for i in range(start, min(start + config.chunk, len(kept)))
                for j in range(config.draws)
            ]
            moved = torch.stack([(probe @ c).norm() for c in copies])
            rows += [c for c, m in zip(copies, moved, strict=True) if m > moved.mean()]
    return sum(torch.outer(c, c) for c in rows) / len(rows)


def naive_delta(W, p, K, moment, config):
    """The closed form as printed: W (A - T) P [I - M K (K^T P M K + lambda I)^-1 K^T P] M, M = (T P + r I)^-1."""
    k, d = p.targets.shape
    eye = torch.eye(d, dtype=W.dtype)
    T = p.targets.mT @ p.targets / k
    A = p.anchors.mT @ p.targets / k
    U, S, _ = torch.linalg.svd(moment)
    null = U[:, config.threshold > S]
    P = null @ null.mT
    M = torch.linalg.inv(T @ P + config.ridge * eye)
    core = K.mT @ P @ M @ K + config.invariant_slack * torch.eye(K.shape[1], dtype=W.dtype)
    return W @ (A - T) @ P @ (eye - M @ K @ torch.linalg.inv(core) @ K.mT @ P) @ M


@settings(max_examples=40)
@given(text_problems(min_retain=3), st.booleans(), st.sampled_from(["none", "directed"]), st.integers(0, 1000))
def test_moment_equals_the_rows_written_out(p, filter_, augment, seed):
    config = SPEEDConfig(filter=filter_, augment=augment, draws=3, chunk=4)
    shared = _prepare(p, config, torch.Generator().manual_seed(0))
    for W in weights_for(p, seed).values():
        fast = retained(p.retain, W, shared, config, torch.Generator().manual_seed(seed)).moment()
        rows = len(p.retain)
        if filter_:
            d = W.shape[1]
            probe = (
                W @ shared.left @ shared.right @ torch.linalg.inv(torch.eye(d, dtype=W.dtype) + shared.Z.mT @ shared.Z)
            )
            influence = (p.retain @ probe.mT).norm(dim=1)
            rows = int((influence > influence.mean()).sum())
        g = torch.randn((rows, 3), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        assert_close(fast, naive_moment(p.retain, W, p, config, g), rtol=1e-8, atol=1e-8)


@settings(max_examples=60)
@given(text_problems(min_retain=4), st.floats(0.05, 5), st.sampled_from([0.0, 0.5]), st.integers(0, 1000))
def test_delta_equals_the_printed_closed_form(p, ridge, slack, seed):
    config = SPEEDConfig(ridge=ridge, invariant_slack=slack, threshold=0.4, augment="none", invariants=2)
    K = invariant_states(p, 2, torch.Generator().manual_seed(seed))
    weights = weights_for(p, seed)
    solution = SPEED().solve(p, weights, config, torch.Generator().manual_seed(seed))
    shared = _prepare(p, config, torch.Generator().manual_seed(seed))
    for path, W in weights.items():
        moment = retained(p.retain, W, shared, config, torch.Generator()).moment()
        null = torch.linalg.eigh(moment)[1][:, torch.linalg.eigvalsh(moment) < config.threshold]
        if null.shape[1] <= K.shape[1] and slack == 0:
            continue  # as many constraints as freedom: the printed inverse does not exist
        delta = solution.modules[path].delta(W)
        wanted = naive_delta(W, p, K, moment, config)
        assert_close(delta, wanted, rtol=1e-5, atol=1e-6 * float(1 + wanted.abs().max()))


@settings(max_examples=40)
@given(text_problems(max_width=16, max_tokens=3, min_retain=3), st.integers(0, 1000))
def test_kept_states_and_invariants_do_not_move(p, seed):
    config = SPEEDConfig(threshold=1e-9, filter=False, augment="none")
    K = invariant_states(p, config.invariants, torch.Generator().manual_seed(seed))
    solution = SPEED().solve(p, weights_for(p, seed), config, torch.Generator().manual_seed(seed))
    for delta in solution.modules.values():
        change = delta.delta(torch.empty(0).double())
        assert (change @ K).abs().max() <= 1e-6
        assert (change @ p.retain.mT).abs().max() <= 1e-3  # eigenvalues up to the threshold count as null


def test_targets_move_to_their_anchors_when_nothing_is_in_the_way():
    torch.manual_seed(0)
    d = 32
    eye = torch.eye(d, dtype=torch.float64)
    p = problem(10 * eye[:1], 10 * eye[1:2], eye[8:12], eye[20], eye[21:25])
    config = SPEEDConfig(ridge=1e-4, filter=False, augment="none", threshold=1e-3)
    W = torch.randn(6, d, dtype=torch.float64)
    delta = SPEED().solve(p, {"w": W}, config, torch.Generator().manual_seed(0)).modules["w"]
    edited = W + delta.delta(W)
    assert_close(edited @ p.targets[0], W @ p.anchors[0], rtol=1e-4, atol=1e-4)
    assert (W @ p.targets[0] - W @ p.anchors[0]).abs().max() > 1  # it was elsewhere before


def test_seed_decides_everything_random():
    torch.manual_seed(1)
    p = problem(
        *(torch.randn(n, 12, dtype=torch.float64) for n in (3, 3, 20)),
        torch.randn(12).double(),
        torch.randn(9, 12).double(),
    )
    weights = weights_for(p, 0)

    def solve(seed: int, **knobs: object) -> torch.Tensor:
        config = SPEEDConfig(threshold=0.5, **knobs)
        modules = SPEED().solve(p, weights, config, torch.Generator().manual_seed(seed)).modules
        return torch.cat([d.delta(torch.empty(0).double()) for d in modules.values()])

    assert torch.equal(solve(3), solve(3))
    assert not torch.equal(solve(3), solve(4))
    # Every knob of the retain set has an effect.
    for other in ({"filter": False}, {"augment": "none"}, {"augment": "random"}, {"invariants": 0}, {"draws": 2}):
        assert not torch.allclose(solve(3), solve(3, **other)), other


@pytest.mark.parametrize("shape", [(3, 8), (8, 8), (20, 8)])
def test_weakest_direction_is_the_last_right_singular_vector(shape):
    W = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    v = weakest_direction(W)
    reference = torch.linalg.svd(W, full_matrices=False).Vh[-1]
    assert_close(v.dot(reference).abs(), torch.tensor(1.0).double(), rtol=1e-9, atol=1e-9)
    assert v[v.abs().argmax()] > 0
