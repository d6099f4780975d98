"""The contrast terms of SurgUn; each a few lines, tested against numbers done by hand."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def ratio(target: Tensor, distractor: Tensor, d: float) -> Tensor:
    """log(1 + L_D / (L_T + d)): at least 0; grows as distractors fit worse, shrinks as the target fits worse.

    Up to d it is -log(L_T / (L_T + L_D)), a two-way choice as in InfoNCE; its pull on L_T fades as 1 / L_T^2.
    """
    return torch.log1p(distractor.mean() / (target.mean() + d))


def logasc(target: Tensor, d: float) -> Tensor:
    """-log(L_T + d): plain ascent whose pull fades as 1 / L_T."""
    return -torch.log(target.mean() + d)


def npo(target: Tensor, reference: Tensor, beta: float) -> Tensor:
    """(2 / beta) log(1 + exp(-beta (L_T - L_T^ref))): ascent that ends once the target fits worse than it did.

    Negative preference optimisation (arXiv 2404.05868) on denoising errors.
    """
    return (2 / beta) * F.softplus(-beta * (target.mean() - reference.mean()))


def duo(
    target: Tensor, distractor: Tensor, target_reference: Tensor, distractor_reference: Tensor, beta: float
) -> Tensor:
    """mean log(1 + exp(beta ((L_D - L_D^ref) - (L_T - L_T^ref)))), pair by pair (DUO, arXiv 2407.21035)."""
    return F.softplus(beta * ((distractor - distractor_reference) - (target - target_reference))).mean()


def capped_ascent(target: Tensor, cap: float) -> Tensor:
    """-mean min(L_T, cap): without a cap plain ascent, which diverges."""
    return -target.clamp(max=cap).mean()
