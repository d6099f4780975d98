"""What would bring a target back is found as the formula has it, and erasing it too leaves less to bring back."""

from __future__ import annotations

import pytest
import torch
from conftest import tiny_pipe
from problems import problem as problem_of
from problems import weights_for
from torch.testing import assert_close

from excise import erase
from excise.methods import METHODS
from excise.methods.closed_form.hardening import PULL, hardened
from excise.methods.closed_form.uce import UCE
from excise.methods.closed_form.uce_config import UCEConfig
from excise.methods.solution import Solution

CLOSED = ("cure", "mace", "rece", "scapre", "speed", "uce")


def text_problem():
    g = torch.Generator().manual_seed(0)

    def rows(n):
        return torch.randn(n, 8, generator=g, dtype=torch.float64)

    return problem_of(rows(3), rows(3), rows(20), rows(1)[0], rows(2), torch.tensor([0, 0, 1]))


def solve(problem) -> Solution:
    return UCE().solve(problem, weights_for(problem, 1), UCEConfig(ridge=0.1), torch.Generator())


def test_the_restoring_states_are_the_least_squares_ones():
    """Each by numpy-like brute force: stack all layers, add the pull as rows, solve."""
    problem = text_problem()
    weights = weights_for(problem, 1)
    seen = []

    def recorded(asked):
        seen.append(asked)
        return solve(asked)

    _, shares = hardened(recorded, problem, weights, rounds=1)
    assert len(seen) == 2
    found = seen[1].targets[len(problem.targets) :]
    edited = {p: w.double() + solve(problem).text_maps[0].delta(w.double()) for p, w in weights.items()}
    d = problem.targets.shape[1]
    tall = torch.cat([*edited.values(), PULL**0.5 * torch.eye(d, dtype=torch.float64)])
    missed = read = 0.0
    for target, mine in zip(problem.targets, found, strict=True):
        wanted = torch.cat([w.double() @ target for w in weights.values()])
        right = torch.cat([wanted, torch.zeros(d, dtype=torch.float64)])
        assert_close(mine, torch.linalg.lstsq(tall, right[:, None]).solution[:, 0], rtol=1e-6, atol=1e-8)
        missed += float((torch.cat(list(edited.values())) @ mine - wanted).square().sum())
        read += float(wanted.square().sum())
    assert shares[0] == pytest.approx(1 - missed / read, rel=1e-6)
    assert torch.equal(seen[1].anchors, torch.cat([problem.anchors, problem.anchors]))
    assert torch.equal(seen[1].owner, torch.cat([problem.owner, problem.owner]))


def test_without_rounds_it_is_the_plain_solution():
    problem = text_problem()
    found, shares = hardened(solve, problem, weights_for(problem, 1), rounds=0)
    assert shares == []
    assert torch.equal(found.text_maps[0].u, solve(problem).text_maps[0].u)


def test_rounds_leave_less_to_bring_back_and_stop_when_settled():
    problem = text_problem()
    weights = weights_for(problem, 1)
    _, shares = hardened(solve, problem, weights, rounds=50)
    assert shares[-1] < shares[0]
    assert len(shares) < 51


@pytest.mark.parametrize("method", CLOSED)
def test_every_closed_form_of_what_reads_text_can_be_hardened(tokenizer, method):
    pipe = tiny_pipe(tokenizer)
    more = {"speed": {"threshold": 5.0}}.get(method, {})
    edit = erase(pipe, ["cat"], method, preserve=["dog"], vocabulary=None, robust=2, **more)
    shares = edit.record.measured["restored"]
    assert len(shares) == 3 or shares[-2] - shares[-1] < 0.01  # it settled
    assert all(torch.isfinite(t).all() for t in edit.tensors().values())
    plain = erase(pipe, ["cat"], method, preserve=["dog"], vocabulary=None, **more)
    assert "restored" not in plain.record.measured
    assert any(
        a.shape != b.shape or not torch.equal(a, b)
        for a, b in zip(edit.tensors().values(), plain.tensors().values(), strict=True)
    )


def test_all_of_them_are_listed():
    shapes = {name for name, record in METHODS.records().items() if record.shape == "closed-form"}
    assert shapes == {*CLOSED, "emcid"}
