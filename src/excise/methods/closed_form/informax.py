"""Relevance of each row of a projection to each concept: the Informax decoupler of ScaPre, and alternatives.

Source: Deng et al., arXiv 2601.06162, and the published behaviour of its official program (MIT).

The program binarises a row's activations on noisy copies of a concept and of the empty prompt at their common median,
so that of 2 P activations exactly P lie above it. Their mutual information with the label (concept or empty) depends
only on how many of the P concept activations lie above: a table of P + 1 numbers. With the program's small noise nearly
every row separates the two fully, and the score saturates; `cosine` does not.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

# Largest number of activations in memory at once.
_CHUNK = 500_000


def mutual_information_table(positives: int) -> Tensor:
    """(P + 1,) nats between the binarised activation and its label, when k of P positives lie above the median.

    >>> [round(x, 4) for x in mutual_information_table(5).tolist()]
    [0.6931, 0.1927, 0.0201, 0.0201, 0.1927, 0.6931]
    """
    share = torch.arange(positives + 1, dtype=torch.float64) / positives
    return math.log(2) + torch.special.xlogy(share, share) + torch.special.xlogy(1 - share, 1 - share)


def noisy(states: Tensor, copies: int, noise: float, generator: torch.Generator) -> Tensor:
    """(m, copies, d): states (m, d) with Gaussian noise of standard deviation `noise`.

    The noise is drawn on the CPU in single precision, because in wide models the draws take much of the time.
    """
    m, d = states.shape
    drawn = torch.randn((m, copies, d), generator=generator).to(states)
    return drawn.mul_(noise).add_(states[:, None])


def mutual_information(W: Tensor, concept: Tensor, empty: Tensor) -> Tensor:
    """(n, m) nats between each row's activation and the label, for each concept.

    Args:
        W: rows (n, d).
        concept, empty: (m, P, d) noisy copies of each concept and of the empty prompt.
    """
    m, P, d = concept.shape
    table = mutual_information_table(P).to(W)
    states = torch.cat([concept, empty], dim=1).reshape(-1, d).mT
    parts = []
    for rows in W.split(max(1, _CHUNK // states.shape[1])):
        acts = (rows @ states).view(len(rows), m, 2 * P)
        above = acts > acts.kthvalue(P, dim=-1, keepdim=True).values
        # Ties at the median leave fewer than P above it; the score of such a row is zero.
        split = above.sum(dim=-1) == P
        parts.append(torch.where(split, table[above[..., :P].sum(dim=-1)], 0.0))
    return torch.cat(parts)


def soft_mask(information: Tensor, temperature: float, power: float) -> Tensor:
    """(n, m) in [0, 1]: sigmoid(z / temperature)^power, z the score of each row among all rows."""
    spread = information.std(dim=0, keepdim=True)
    z = (information - information.mean(dim=0, keepdim=True)) / spread.clamp(min=1e-6)
    return torch.sigmoid(z / temperature) ** power


def cosine(W: Tensor, concept: Tensor, empty: Tensor) -> Tensor:
    """(n, m) in [0, 1]: squared cosine of each row with concept less empty prompt, over the largest of all rows.

    Args:
        W: rows (n, d).
        concept: (m, d) states of the concepts.
        empty: (d,) state of the empty prompt.
    """
    apart = torch.nn.functional.normalize(concept - empty, dim=1)
    squared = (W @ apart.mT).square() / W.square().sum(dim=1, keepdim=True).clamp(min=1e-300)
    return squared / squared.amax(dim=0, keepdim=True).clamp(min=1e-300)


def entropy(W: Tensor, copies: Tensor, bins: int) -> Tensor:
    """(n,) in [0, 1]: entropy of each row's activations on `copies` (N, d), scaled to its own range, over log(bins).

    0: all activations of the row are equal; 1: they fill the bins evenly.
    """
    parts = []
    for rows in W.split(max(1, _CHUNK // len(copies))):
        acts = rows @ copies.mT
        low, high = acts.aminmax(dim=1, keepdim=True)
        index = ((acts - low) / (high - low).clamp(min=1e-300) * bins).long().clamp(max=bins - 1)
        first = torch.arange(len(rows), device=W.device)[:, None] * bins
        counts = torch.bincount((first + index).flatten(), minlength=len(rows) * bins).view(len(rows), bins)
        p = counts.to(acts) / acts.shape[1]
        parts.append((-torch.special.xlogy(p, p).sum(dim=1) / math.log(bins)).clamp(0, 1))
    return torch.cat(parts)
