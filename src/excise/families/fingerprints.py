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
from excise.families.partial import Weights, weights_by_name


def fingerprint(weights: Mapping[str, Tensor], dtype: torch.dtype = torch.float16) -> str:
    """SHA-256 of `weights` cast to `dtype`, so that a model has one fingerprint in single and in half precision."""
    return fingerprints(weights, [dtype]).digests[0]


KEPT = 512  # values of a model that its record keeps, at least one of every weight


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
    known = weights if isinstance(weights, Weights) else Weights.known(weights)
    shas, kept = [hashlib.sha256() for _ in dtypes], list[list[float]]()
    for name in sorted(known):
        shape, values = known.shape(name), list[float]()
        step, at = max(1, shape.numel() // each), 0
        for sha in shas:
            sha.update(f"{name}{tuple(shape)}".encode())
        for piece in known.pieces(name):
            first = -at % step  # the next number to keep
            values += piece[first::step].tolist()
            at += len(piece)
            for sha, dtype in zip(shas, dtypes, strict=True):
                cast = piece
                for to in dtype if isinstance(dtype, tuple) else (dtype,):
                    cast = cast.to("cpu", to)
                sha.update(raw_bytes(cast))
        kept.append(values[:each])
    flat = [value for values in kept for value in values]
    return Prints(tuple(sha.hexdigest() for sha in shas), torch.tensor(flat, dtype=torch.float32))


def row_key(row: Tensor) -> bytes:
    """A digest of the values of text states (L, d), by which a hook knows a prompt again when the denoiser reads it."""
    return hashlib.blake2b(raw_bytes(row.detach().float().cpu()), digest_size=16).digest()


def raw_bytes(tensor: Tensor) -> memoryview:
    """Row-major bytes of a tensor on the CPU, whatever its memory format."""
    flat = tensor.flatten()  # 1x1 convolutions in channels-last format have strides that no view takes
    return flat.view(torch.uint8).numpy().data


def text_encoder_print(family: Family) -> str:
    """The fingerprint of a model's text encoders; computed again only after one of their weights was written to."""
    networks = [family.denoiser, *family.text_encoders.values()]
    return text_encoder_prints(family, Weights(weights_by_name(family.text_encoder_weights, networks))).digests[0]


def text_encoder_prints(family: Family, weights: Weights) -> Prints:
    """The fingerprint of weights of a model's text encoders, and some values, kept as by `text_encoder_print`."""
    mark = weights.mark()
    cached = _prints.get(family.pipe)
    if cached is None or cached[0] != mark:
        cached = _prints[family.pipe] = (mark, fingerprints(weights, [torch.float16], each_of(weights)))
    return cached[1]


def each_of(weights: Mapping[str, Tensor]) -> int:
    """How many values of every weight a record keeps."""
    return max(1, KEPT // len(weights))


_prints: WeakKeyDictionary[Any, tuple[Any, Prints]] = WeakKeyDictionary()
