"""Losses on predictions of the denoiser; each a few lines, tested against numbers done by hand."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from excise.families.base import Family
from excise.families.conditions import Condition
from excise.families.noising import Noising

Combiner = Literal["sum", "project", "restricted"]


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


def combined(how: Combiner, erase: Tensor, preserve: Tensor, parameters: Iterable[Tensor]) -> Tensor:
    """One loss from that of erasing and that of preserving, whose gradients may be against each other.

        sum         g_e + g_p
        project     g_e - min(0, <g_e, g_p>) / |g_p|^2 g_p + g_p
        restricted  project, without the part of g_p against g_e either:  ... - min(0, <g_e, g_p>) / |g_e|^2 g_e

    "project" is one-sided gradient surgery (DoCo, arXiv 2405.15304), and the step nearest to g_e of those that do not
    raise L_p; "restricted" is two-sided (RGD, arXiv 2412.07808). The gradients are taken here, over all parameters
    together, and are those of what is returned: going back from it does not go through the model once more.

    Args:
        erase, preserve: the losses L_e and L_p, one number each.
        parameters: what is trained.
    """
    if how == "sum":
        return erase + preserve
    trained = list(parameters)
    g_e = torch.autograd.grad(erase, trained, retain_graph=True, allow_unused=True, materialize_grads=True)
    g_p = torch.autograd.grad(preserve, trained, allow_unused=True, materialize_grads=True)
    against = min(0.0, _dot(g_e, g_p))
    of_erase = 1 - against / _dot(g_e, g_e) if against and how == "restricted" else 1.0
    of_preserve = 1 - against / _dot(g_p, g_p) if against else 1.0
    value = (of_erase * erase + of_preserve * preserve).detach()
    linear = sum((p * (of_erase * e + of_preserve * k)).sum() for p, e, k in zip(trained, g_e, g_p, strict=True))
    return value + linear - linear.detach()  # type: ignore[union-attr]


def _dot(one: Sequence[Tensor], other: Sequence[Tensor]) -> float:
    return sum(float((a * b).sum()) for a, b in zip(one, other, strict=True))


def squares(prediction: Tensor, target: Tensor) -> Tensor:
    """(n,) mean squared difference of each prediction (n, c, h, w) and its target."""
    return (prediction - target.to(prediction)).square().flatten(1).mean(dim=1)


def bounded_ascent(errors: Tensor, bound: float) -> Tensor:
    """-mean min(e, bound): ascent on errors (n,) that are still below a bound (RGD, arXiv 2412.07808; GS-LoRA)."""
    return -errors.clamp(max=bound).mean()


def attention_norm(maps: Sequence[Tensor], words: Tensor, mask: Tensor | None = None) -> Tensor:
    """The norm of all attention to the tokens of words, mean over a batch (Forget-Me-Not, arXiv 2303.17591).

    Args:
        maps: (B, heads, queries, L) by layer, the queries of square latents. words: (B, L) the tokens.
        mask: (B, 1, h, w) places that count; None for all.
    """
    if mask is not None:
        maps = [m * within(mask, m.shape[2])[:, None] for m in maps]
    chosen = words.to(maps[0])[:, None, None]
    return sum((m.float() * chosen).square().flatten(1).sum(dim=1) for m in maps).sqrt().mean()  # type: ignore[union-attr]


def within(mask: Tensor, queries: int) -> Tensor:
    """(B, queries, 1): a mask (B, 1, h, w) at the positions of a layer over square latents."""
    side = round(queries**0.5)
    return interpolate(mask, (side, side), mode="nearest").flatten(2).mT
