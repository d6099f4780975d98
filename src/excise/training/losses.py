"""Losses on predictions of the denoiser; each a few lines, tested against numbers done by hand."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from excise.families.base import Family
from excise.families.conditions import Condition
from excise.families.noising import Noising


def mse(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean squared difference of predictions of one shape, as one number."""
    return (prediction - target).square().mean()


def push_away(empty: Tensor, concept: Tensor, base: Tensor, eta: float) -> Tensor:
    """base - eta (concept - empty): a prediction moved against the direction of the concept.

    The coefficients of a base that is `empty` or `concept` sum to one with the others, so it is the same target for
    noise, v and flow (ESD, arXiv 2303.07345, eq. 7).
    """
    return base - eta * (concept - empty)


def errors(family: Family, plan: Noising, clean: Tensor, noise: Tensor, t: Tensor, condition: Condition) -> Tensor:
    """(n,) mean squared error of the denoiser's prediction against its target, in its own parameterisation."""
    guess = family.predict(plan.add(clean, noise, t), t, condition)
    return (guess - plan.target(clean, noise, t).to(guess.device)).square().mean(dim=(1, 2, 3))


def relieved(erase: Tensor, preserve: Tensor, parameters: Iterable[Tensor]) -> Tensor:
    """L_e + w L_p, where the gradient of L_e is freed of its part against that of L_p.

        w = 1 + max(0, -<g_e, g_p>) / |g_p|^2,    so that its gradient is g_p + (g_e - min(0, <g_e, g_p>) / |g_p|^2 g_p)

    The gradients g_e and g_p are taken here, over all parameters together, and w is a constant in the result.

    Args:
        erase, preserve: the losses L_e and L_p, one number each.
        parameters: what is trained.
    """
    trained = list(parameters)

    def gradient(loss: Tensor) -> list[Tensor | None]:
        return list(torch.autograd.grad(loss, trained, retain_graph=True, allow_unused=True))

    g_e, g_p = gradient(erase), gradient(preserve)
    dot = sum(float((e * p).sum()) for e, p in zip(g_e, g_p, strict=True) if e is not None and p is not None)
    square = sum(float(p.square().sum()) for p in g_p if p is not None)
    conflict = max(0.0, -dot) / square if square else 0.0
    return erase + (1 + conflict) * preserve
