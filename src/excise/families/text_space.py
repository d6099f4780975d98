"""Distances between texts in the space of the text encoder."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from excise.families.base import Family


def pooled(family: Family, texts: Sequence[str]) -> Tensor:
    """(n, d) one state a text: the end token's (the last token's where there is none), in double precision."""
    found = family.encode(list(texts))
    return found.states[range(len(texts)), found.end].double().cpu()


def nearest_first(family: Family, names: Sequence[str], others: Sequence[str]) -> list[str]:
    """Other texts by their distance to the nearest of some names in the text encoder's space."""
    if not others:
        return []
    states = torch.nn.functional.normalize(pooled(family, [*names, *others]), dim=-1)
    cosine = states[len(names) :] @ states[: len(names)].T
    order = cosine.amax(1).argsort(descending=True, stable=True)
    return [others[i] for i in order.tolist()]
