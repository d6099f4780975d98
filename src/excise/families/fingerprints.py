"""Fingerprints of weights, by which a model is recognised."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from excise.families.base import Family
from excise.families.networks import values


def fingerprint(weights: Mapping[str, Tensor], dtype: torch.dtype = torch.float16) -> str:
    """SHA-256 of `weights` cast to `dtype`, so that a model has one fingerprint in single and in half precision."""
    digest = hashlib.sha256()
    for name, weight in sorted(weights.items()):
        digest.update(f"{name}{tuple(weight.shape)}".encode())
        digest.update(raw_bytes(weight.detach().to("cpu", dtype)))
    return digest.hexdigest()


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
