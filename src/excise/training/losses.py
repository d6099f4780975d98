"""Errors of predictions, and the contrast terms of SurgUn; each a few lines, tested against numbers done by hand."""

from __future__ import annotations

from torch import Tensor

from excise.families.base import Condition, Family
from excise.families.noising import Noising


def errors(family: Family, plan: Noising, clean: Tensor, noise: Tensor, t: Tensor, condition: Condition) -> Tensor:
    """(n,) mean squared error of the denoiser's prediction against its target, in its own parameterisation."""
    guess = family.predict(plan.add(clean, noise, t), t, condition)
    return (guess - plan.target(clean, noise, t).to(guess.device)).square().mean(dim=(1, 2, 3))
