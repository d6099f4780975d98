"""Directions of text space in which maps that read text may change, so that retained prompts stay as they are.

R is the mean moment of all states of the retained prompts, T that of the targets' states. Maps that read tokens are
confined by the states of tokens (of targets from their last word on), maps that read the whole prompt by those of
whole prompts. With a LoRA dW = b a' Z^T only what a state has along the columns of Z (d, q) moves:

target   T z = mu (R + ridge tr(R) / d I) z,  mu >= 1 / share     what tells a target from the rest, scaled so that its
         states answer at their own size (learning rates are then those of any LoRA), kept ones at the square root of
         `share` of it or less
null     eigenvectors of R below a threshold, as in SPEED (arXiv 2503.07392)    what kept prompts do not use
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from excise.errors import SettingError
from excise.families.base import Family
from excise.families.text_states import Pads, TextStates
from excise.families.usual import told_behind
from excise.linalg.solves import null_space

RANK = 1e-6  # of the largest singular value; what is smaller adds no direction
solve = partial(torch.linalg.solve_triangular, upper=False)


@dataclass(frozen=True)
class Readings:
    """What prompts give to maps of one kind, in float64.

    Attributes:
        targets: (n_i, d) by target, the rows in which it is told.
        kept: (d, d) the mean moment of what is kept, the empty prompt among it.
    """

    targets: tuple[Tensor, ...]
    kept: Tensor


@dataclass(frozen=True)
class Span:
    """Directions of text space that a LoRA may read.

    Attributes:
        directions: (d, q).
        shares: by target, the energy of retained states relative to the target's along its clearest direction; empty
            for the span "null".
    """

    directions: Tensor
    shares: tuple[float, ...] = ()


def readings(
    family: Family, targets: Sequence[Sequence[tuple[str, str]]], retain: Sequence[str]
) -> dict[str, Readings]:
    """What prompts give to maps that read tokens ("tokens") and, where a model has such, whole prompts ("pooled").

    Args:
        targets: by target its prompts, each with the word in it that asks for the target.
        retain: prompts to keep, to which the empty prompt is added.

    Raises:
        SettingError: nothing to keep was given.
    """
    check_retained(retain)
    asked = [_encoded(family, [t for t, _ in prompts], [s for _, s in prompts]) for prompts in targets]
    kept = _encoded(family, list(dict.fromkeys([*retain, ""])))
    pads = _pads(family)
    read = {"tokens": Readings(tuple(_rows(a, "from_last", pads) for a in asked), _moment(_rows(kept, "all", pads)))}
    if kept.pooled is not None:
        pooled = [_double(a.pooled) for a in asked if a.pooled is not None]
        read["pooled"] = Readings(tuple(pooled), _moment(_double(kept.pooled)))
    return read


def target_span(read: Readings, share: float, ridge: float) -> Span:
    """Directions along which targets' states are large and retained states are small, strongest first.

    Where R + ridge is L L', mu are the squared singular values of a target's states after L^-1: of each target the
    directions of mu >= 1 / share count, and its first in any case.

    Args:
        share: largest kept energy beside a target's. ridge: of the kept moment, in units of its mean eigenvalue.
    """
    rows, kept = read.targets, read.kept
    lower = torch.linalg.cholesky(kept + ridge * kept.trace() / len(kept) * torch.eye(len(kept), dtype=kept.dtype))
    strongest, shares = [], []
    for x in rows:
        u, s, _ = torch.linalg.svd(solve(lower, x.mT) / len(x) ** 0.5, full_matrices=False)
        count = max(1, int((s**2 >= 1 / share).sum()))
        strongest.append(u[:, :count] * s[:count])
        shares.append(float(s[0] ** -2))
    u, s, _ = torch.linalg.svd(torch.cat(strongest, dim=1), full_matrices=False)
    u, s = u[:, s > RANK * s[0]], s[s > RANK * s[0]]
    size = torch.stack([x.square().sum(dim=1).mean() for x in rows]).mean().sqrt()
    z = solve(lower.mT, u, upper=True) * size / s
    answers = torch.stack([(x @ z).mean(dim=0) for x in rows]).mean(dim=0)
    return Span(z * torch.where(answers < 0, -1.0, 1.0), tuple(shares))


def null_span(read: Readings, threshold: float) -> Span:
    """Orthonormal directions that hardly any retained prompt uses, the empty prompt among them.

    Raises:
        SettingError: nothing is left.
    """
    span = null_space(read.kept, threshold)
    if not span.shape[1]:
        raise SettingError(f"no direction of text space is free at threshold {threshold:g}; raise --set threshold=...")
    return Span(span)


def check_retained(retain: Sequence[str]) -> None:
    """Refuse to confine a training without prompts to retain.

    Raises:
        SettingError: there are none.
    """
    if not retain:
        raise SettingError(
            "SurgUn needs names to protect: --preserve-file FILE, --preserve NAME or a --vocabulary. Without any, it "
            "trains with --set confine=false alone."
        )


def _encoded(family: Family, texts: Sequence[str], subjects: Sequence[str] | None = None) -> TextStates:
    return family.encode(texts, subjects, [_pads(family)] * len(texts))


def _pads(family: Family) -> Pads:
    return "few" if told_behind(family.provides) else "all"


def _rows(states: TextStates, tokens: str, pads: Pads) -> Tensor:
    every = range(len(states.at))
    return _double(states.gather(every, states.chosen(every, tokens, pads)))


def _double(rows: Tensor) -> Tensor:
    return rows.double().cpu()


def _moment(rows: Tensor) -> Tensor:
    return rows.mT @ rows / len(rows)
