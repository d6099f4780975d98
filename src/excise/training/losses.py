"""Losses on predictions of the denoiser; each a few lines, tested against numbers done by hand."""

from __future__ import annotations

from torch import Tensor

from excise.families.base import Condition, Family
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
