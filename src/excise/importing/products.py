"""Compute the change of one weight from its factors: matrix, Hadamard and Kronecker products.

LoRA           W' = W + s B A            (arXiv 2106.09685; over convolutions B M A with a core M in between)
LoHa           W' = W + s (B1 A1) o (B2 A2)                                          (arXiv 2108.06098)
LoKr           W' = W + s (B1 A1) x (B2 A2), either pair perhaps a whole matrix      (arXiv 2309.14859)

s is alpha over the rank. Products are exact; that of a linear layer stays in factors if they are smaller.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import torch
from torch import Tensor

from excise.edits.deltas import Delta, Dense, LowRank

Factors = Mapping[str, Tensor]
"""Tensors of one layer by role: down, up, mid, or the names in the files (hada_w1_a, lokr_w2, ...)."""
Pair = tuple[Tensor, Tensor]
"""(out, r) and (r, in)."""


def lora(parts: Factors, shape: torch.Size, scale: float) -> Delta:
    """Return the change of LoRA factors down (r, in, ...), up (out, r, ...) and perhaps a core mid (r, r, kh, kw)."""
    down, up = parts["down"].flatten(1), parts["up"].flatten(1) * scale
    if "mid" in parts:
        return _dense(_tucker(parts["mid"], up, down), shape)
    return LowRank(up, down) if len(shape) == 2 else _dense(up @ down, shape)


def loha(parts: Factors, shape: torch.Size, scale: float) -> Delta:
    """Return the change of LoHa factors w1_a, w2_a (out, r) and w1_b, w2_b (r, in ...).

    With cores t1, t2 (r, r, kh, kw) the factors are (r, out) and (r, in).
    """
    if "hada_t1" in parts:
        one, two = (_tucker(parts[f"hada_t{i}"], parts[f"hada_w{i}_a"].T, parts[f"hada_w{i}_b"]) for i in (1, 2))
        return _dense(one * two * scale, shape)
    (b1, a1), (b2, a2) = ((parts[f"hada_w{i}_a"], parts[f"hada_w{i}_b"].flatten(1)) for i in (1, 2))
    if not _smaller(len(a1) * len(a2), shape):
        return _dense((b1 @ a1) * (b2 @ a2) * scale, shape)
    b, a = torch.einsum("or,os->ors", b1, b2).flatten(1), torch.einsum("ri,si->rsi", a1, a2).flatten(0, 1)
    return LowRank(b * scale, a)


def lokr(parts: Factors, shape: torch.Size, scale: float) -> Delta:
    """Return the change of LoKr factors: w1 or w1_a, w1_b; w2 (..., kh, kw) or w2_a, w2_b and perhaps a core t2."""
    if "lokr_t2" in parts:
        second = _tucker(parts["lokr_t2"], parts["lokr_w2_a"].T, parts["lokr_w2_b"]).flatten(1)
        b1, a1 = _pair(parts, 1)
        return _dense(torch.kron(b1 @ a1, second) * scale, shape)
    (b1, a1), (b2, a2) = _pair(parts, 1), _pair(parts, 2)
    if not _smaller(len(a1) * len(a2), shape):
        return _dense(torch.kron(b1 @ a1, b2 @ a2) * scale, shape)
    return LowRank(torch.kron(b1, b2) * scale, torch.kron(a1, a2))


def difference(parts: Factors, shape: torch.Size, scale: float) -> Delta:
    """Return a change that is stored in full; a linear layer may be stored as a 1 x 1 convolution, or vice versa."""
    change = parts["diff"]
    return _dense(change if change.shape == shape else change.flatten(1), shape)


def rank(parts: Factors) -> int | None:
    """Return the rank that alpha is divided by, or None if nothing is factorised and alpha has no meaning."""
    name = next((n for n in ("down", "hada_w1_b", "lokr_w2_b", "lokr_w1_b") if n in parts), None)
    return None if name is None else len(parts[name])


def _pair(parts: Factors, i: int) -> Pair:
    """Return one side of a Kronecker product as two factors; for a full matrix one of them is the identity."""
    whole = parts.get(f"lokr_w{i}")
    if whole is None:
        return parts[f"lokr_w{i}_a"], parts[f"lokr_w{i}_b"].flatten(1)
    whole = whole.flatten(1)
    out, into = whole.shape
    return (whole, torch.eye(into)) if into <= out else (torch.eye(out), whole)


def _dense(change: Tensor, shape: torch.Size) -> Dense:
    """Return a change, given in `shape` or flattened to (out, rest), as a dense delta of that shape.

    Raises:
        RuntimeError: the change has another shape.
    """
    if change.shape not in (shape, (shape[0], prod(shape[1:]))):
        raise RuntimeError(f"{tuple(change.shape)} is not {tuple(shape)}")
    return Dense(change.reshape(shape))


def _tucker(core: Tensor, out: Tensor, into: Tensor) -> Tensor:
    """Return (out, in, kh, kw), the product of a core (r, s, kh, kw) with `out` (out, r) and `into` (s, in)."""
    return torch.einsum("rs...,or,si->oi...", core, out, into)


def _smaller(rank: int, shape: torch.Size) -> bool:
    """Return whether two factors of this rank have fewer numbers than the matrix."""
    return len(shape) == 2 and rank * sum(shape) < prod(shape)
