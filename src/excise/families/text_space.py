"""Distances between texts in the space of the text encoder."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from excise.families.base import Family


def pooled(family: Family, texts: Sequence[str]) -> Tensor:
    """(n, d) one state a text, in double precision: the end token's, or the last token's where there is none."""
    encoded = family.encode(list(texts), until=["end"] * len(texts))
    return encoded.one_each(encoded.end).double().cpu()


def nearest_first(family: Family, names: Sequence[str], others: Sequence[str]) -> list[str]:
    """Sort other texts by the cosine similarity of each to its nearest name, the most similar first."""
    if not others:
        return []
    states = torch.nn.functional.normalize(pooled(family, [*names, *others]), dim=-1)
    cosine = states[len(names) :] @ states[: len(names)].T
    order = cosine.amax(1).argsort(descending=True, stable=True)
    return [others[i] for i in order.tolist()]
