"""Fingerprints of weights, by which a model is recognised."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from excise.families.base import Family
from excise.families.networks import some, values


def fingerprint(weights: Mapping[str, Tensor], dtype: torch.dtype = torch.float16) -> str:
    """SHA-256 of `weights` cast to `dtype`, so that a model has one fingerprint in single and in half precision."""
    return fingerprints(weights, [dtype]).digests[0]


@dataclass(frozen=True)
class Prints:
    """What one pass over weights tells of them.

    Attributes:
        digests: SHA-256 of the weights, for each precision that they were cast to.
        values: some values of every weight, by the order of names, in single precision.
    """

    digests: tuple[str, ...]
    values: Tensor


def fingerprints(
    weights: Mapping[str, Tensor],
    dtypes: Sequence[torch.dtype | tuple[torch.dtype, torch.dtype]],
    each: int = 1,
) -> Prints:
    """Fingerprints in several precisions, and values, of weights that are looked at one by one.

    Args:
        dtypes: precisions; of two, the weights are cast to the first and then to the second.
        each: how many values of every weight are kept at most.
    """
    shas, kept = [hashlib.sha256() for _ in dtypes], []
    for name in sorted(weights):
        weight = weights[name].detach()
        kept.append(some(weight, each))
        for sha, dtype in zip(shas, dtypes, strict=True):
            steps = dtype if isinstance(dtype, tuple) else (dtype,)
            cast = weight
            for step in steps:
                cast = cast.to("cpu", step)
            sha.update(f"{name}{tuple(weight.shape)}".encode())
            sha.update(raw_bytes(cast))
    return Prints(tuple(sha.hexdigest() for sha in shas), torch.cat(kept))


def raw_bytes(tensor: Tensor) -> memoryview:
    """Row-major bytes of a tensor on the CPU, whatever its memory format."""
    flat = tensor.flatten()  # 1x1 convolutions in channels-last format have strides that no view takes
    return flat.view(torch.uint8).numpy().data


def text_encoder_print(family: Family, weights: Mapping[str, Tensor] | None = None) -> str:
    """The fingerprint of a model's text encoders; computed again only after one of their weights was written to.

    Args:
        weights: to take instead of the current ones.
    """
    weights = family.text_encoder_weights if weights is None else weights
    # Writes past torch's version counter, as fusing a LoRA does, show in a few values of each weight.
    mark = tuple((w.data_ptr(), w._version) for w in weights.values()), bytes(raw_bytes(values(weights, 4)))
    cached = _prints.get(family.pipe)
    if cached is None or cached[0] != mark:
        cached = _prints[family.pipe] = (mark, fingerprint(weights))
    return cached[1]


_prints: WeakKeyDictionary[Any, tuple[Any, str]] = WeakKeyDictionary()
