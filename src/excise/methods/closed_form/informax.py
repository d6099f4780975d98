"""Relevance of each row of a projection to each concept: the Informax decoupler of ScaPre, and alternatives.

Source: Deng et al., arXiv 2601.06162, and the published behaviour of its official program (MIT).

The program binarises a row's activations on noisy copies of a concept and of the empty prompt at their common median,
so that of 2 P activations exactly P lie above it. Their mutual information with the label (concept or empty) depends
only on how many of the P concept activations lie above: a table of P + 1 numbers. With the program's small noise nearly
every row separates the two fully, and the score saturates; `cosine` does not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

# Activations in memory at once; but of no fewer rows than this, for which products would be slow.
_CHUNK, _ROWS = 500_000, 128


def mutual_information_table(positives: int) -> Tensor:
    """(P + 1,) nats between the binarised activation and its label, when k of P positives lie above the median.

    >>> [round(x, 4) for x in mutual_information_table(5).tolist()]
    [0.6931, 0.1927, 0.0201, 0.0201, 0.1927, 0.6931]
    """
    share = torch.arange(positives + 1, dtype=torch.float64) / positives
    return math.log(2) + torch.special.xlogy(share, share) + torch.special.xlogy(1 - share, 1 - share)


@dataclass(frozen=True)
class Noisy:
    """Copies of text states (m, d) under Gaussian noise, for the activations of rows on them.

    Attributes:
        states: (m, d) in float64, or (1, d) for the same state m times.
        drawn: (m, copies, d) of standard deviation 1 in single precision: drawing and multiplying it would otherwise
            take most of the time, and errors of 1e-7 of the noise only matter to an activation that lies on an edge.
        noise: standard deviation.
    """

    states: Tensor
    drawn: Tensor
    noise: float

    @classmethod
    def draw(cls, states: Tensor, count: int, copies: int, noise: float, generator: torch.Generator) -> Noisy:
        """Draw `copies` for each of `count` states, on the CPU."""
        drawn = torch.randn((count, copies, states.shape[1]), generator=generator)
        return cls(states, drawn.to(states.device), noise)

    def activations(self, rows: Tensor) -> Tensor:
        """(n, m, copies) activations of rows (n, d)."""
        m, copies, d = self.drawn.shape
        apart = (rows.float() @ self.drawn.view(-1, d).mT).view(len(rows), m, copies)
        return torch.add((rows @ self.states.mT)[:, :, None], apart, alpha=self.noise)


def mutual_information(W: Tensor, concept: Noisy, empty: Noisy) -> Tensor:
    """(n, m) nats between the activation of each row of W (n, d) and the label, for each of m concepts.

    Args:
        concept, empty: P copies of each concept, and of the empty prompt for each concept.
    """
    m, P, _ = concept.drawn.shape
    table = mutual_information_table(P).to(W)
    parts = []
    for rows in W.split(max(_ROWS, _CHUNK // (2 * m * P))):
        acts = torch.cat([concept.activations(rows), empty.activations(rows)], dim=2)
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


def entropy(W: Tensor, copies: Noisy, bins: int) -> Tensor:
    """(n,) in [0, 1]: entropy of each row's activations on `copies`, scaled to its own range, over log(bins).

    0: all activations of the row are equal; 1: they fill the bins evenly.
    """
    parts = []
    for rows in W.split(max(_ROWS, _CHUNK // (copies.drawn.shape[0] * copies.drawn.shape[1]))):
        acts = copies.activations(rows).flatten(1)
        low, high = acts.aminmax(dim=1, keepdim=True)
        index = acts.sub_(low).div_((high - low).clamp_(min=1e-300)).mul_(bins).int().clamp_(max=bins - 1)
        index += torch.arange(len(rows), device=W.device, dtype=torch.int32)[:, None] * bins
        counts = torch.bincount(index.flatten(), minlength=len(rows) * bins).view(len(rows), bins)
        p = counts.to(acts) / acts.shape[1]
        parts.append((-torch.special.xlogy(p, p).sum(dim=1) / math.log(bins)).clamp(0, 1))
    return torch.cat(parts)
