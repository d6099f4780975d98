"""The loss of two levels whose gradients may be against each other, beside projections done by hand."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from excise.training.losses import combined


def gradient(erase: list[float], preserve: list[float], scale: float = 1.0) -> torch.Tensor:
    """Of `combined`, one-sided, for losses whose gradients are these."""
    one, two = torch.zeros(1, requires_grad=True), torch.zeros(len(erase) - 1, requires_grad=True)
    g_e, g_p = torch.tensor(erase), torch.tensor(preserve)
    losses = [(g[:1] * one).sum() + (g[1:] * two).sum() for g in (g_e, scale * g_p)]
    combined("project", *losses, [one, two]).backward()
    return torch.cat([one.grad, two.grad])


def test_by_hand():
    assert_close(gradient([3.0, -4.0], [0.0, 2.0]), torch.tensor([3.0, 2.0]))  # the conflict, -4, is gone
    assert_close(gradient([3.0, 4.0], [0.0, 2.0]), torch.tensor([3.0, 6.0]))  # no conflict: their sum
    assert_close(gradient([3.0, 4.0], [0.0, 0.0]), torch.tensor([3.0, 4.0]))  # nothing to preserve yet


@given(st.lists(st.tuples(st.floats(-5, 5, width=16), st.floats(-5, 5, width=16)), min_size=2, max_size=6))
def test_to_first_order_preservation_is_never_raised(pairs):
    erase, preserve = ([*map(float, side)] for side in zip(*pairs, strict=True))
    g_e, g_p = torch.tensor(erase), torch.tensor(preserve)
    total = gradient(erase, preserve)
    against = min(0.0, float(g_e @ g_p))
    square = float(g_p @ g_p)
    wanted = g_p + g_e - (against / square * g_p if square else 0)
    assert_close(total, wanted, rtol=1e-3, atol=1e-3)
    assert float((total - g_p) @ g_p) >= -1e-2 * (1 + square)  # the erase part alone


def test_either_gradient_is_freed_of_its_part_against_the_other():
    one = torch.zeros(2, requires_grad=True)
    g_e, g_p = torch.tensor([3.0, -4.0]), torch.tensor([0.0, 2.0])
    combined("restricted", (g_e * one).sum(), (g_p * one).sum(), [one]).backward()
    # The dot product is -8: g_e + 8 / 4 g_p = (3, 0), and g_p + 8 / 25 g_e = (0.96, 0.72).
    assert_close(one.grad, torch.tensor([3.96, 0.72]))


def test_a_loss_that_does_not_reach_a_parameter():
    used, other = torch.ones(1, requires_grad=True), torch.ones(1, requires_grad=True)
    combined("project", 2 * used.sum(), -3 * used.sum() + other.sum(), [used, other]).backward()
    # g_e = (2, 0), g_p = (-3, 1): the dot product is -6, |g_p|^2 = 10.
    assert_close(torch.cat([used.grad, other.grad]), torch.tensor([2 - 3 * 1.6, 1.6]))


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_the_erase_part_does_not_depend_on_the_size_of_the_other(scale):
    plain, scaled = gradient([3.0, -4.0], [1.0, 2.0]), gradient([3.0, -4.0], [1.0, 2.0], scale)
    g_p = torch.tensor([1.0, 2.0])
    assert_close(plain - g_p, scaled - scale * g_p, rtol=1e-4, atol=1e-4 * max(1.0, scale))


@pytest.mark.parametrize("how", ["project", "restricted"])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_way_back_through_a_model_is_gone_once_a_loss(how, sign):
    weight, passes = torch.ones(3, requires_grad=True), []
    prediction = 2 * weight
    prediction.register_hook(lambda _: passes.append(1))
    erase, preserve = prediction.square().sum(), sign * prediction.sum()
    total = combined(how, erase, preserve, [weight])
    total.backward()
    assert len(passes) == 2
    assert weight.grad is not None


def test_gradients_are_scaled_with_the_loss_as_a_scaler_of_half_precision_does():
    one = torch.ones(2, requires_grad=True)
    total = combined("restricted", torch.tensor([3.0, -4.0]) @ one, torch.tensor([0.0, 2.0]) @ one, [one])
    (512 * total).backward()
    assert_close(one.grad, 512 * torch.tensor([3.96, 0.72]))
    # -1 and 2 are the losses: -1 + 8 / 4 * 2 + 2 + 8 / 25 * -1
    assert_close(total.detach(), torch.tensor(-1 + 4 + 2 - 0.32))
