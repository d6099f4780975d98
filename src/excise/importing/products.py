"""Changes of one weight out of the factors they are kept in: products of matrices, of Hadamard and of Kronecker.

LoRA           W' = W + s B A            (arXiv 2106.09685; over convolutions B M A with a core M in between)
LoHa           W' = W + s (B1 A1) o (B2 A2)                                          (arXiv 2108.06098)
LoKr           W' = W + s (B1 A1) x (B2 A2), either pair perhaps a whole matrix      (arXiv 2309.14859)

s is alpha over the rank. Each product is taken exactly; of a linear map it stays in factors where those are smaller.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import torch
from torch import Tensor

from excise.edits.deltas import Delta, Dense, LowRank

Factors = Mapping[str, Tensor]
"""Tensors of one map by what they are: down, up, mid; else as their files call them (hada_w1_a, lokr_w2, ...)."""
Pair = tuple[Tensor, Tensor]
"""(out, r) and (r, in)."""


def lora(parts: Factors, shape: torch.Size, scale: float) -> Delta:
    """Factors down (r, in, ...) and up (out, r, ...), perhaps with a core mid (r, r, kh, kw)."""
    down, up = parts["down"].flatten(1), parts["up"].flatten(1) * scale
    if "mid" in parts:
        return _dense(_tucker(parts["mid"], up, down), shape)
    return LowRank(up, down) if len(shape) == 2 else _dense(up @ down, shape)


def loha(parts: Factors, shape: torch.Size, scale: float) -> Delta:
    """Factors w1_a, w2_a (out, r) and w1_b, w2_b (r, in ...); with cores t1, t2 they are (r, out) and (r, in)."""
    if "hada_t1" in parts:
        one, two = (_tucker(parts[f"hada_t{i}"], parts[f"hada_w{i}_a"].T, parts[f"hada_w{i}_b"]) for i in (1, 2))
        return _dense(one * two * scale, shape)
    (b1, a1), (b2, a2) = ((parts[f"hada_w{i}_a"], parts[f"hada_w{i}_b"].flatten(1)) for i in (1, 2))
    if not _smaller(len(a1) * len(a2), shape):
        return _dense((b1 @ a1) * (b2 @ a2) * scale, shape)
    b, a = torch.einsum("or,os->ors", b1, b2).flatten(1), torch.einsum("ri,si->rsi", a1, a2).flatten(0, 1)
    return LowRank(b * scale, a)


def lokr(parts: Factors, shape: torch.Size, scale: float) -> Delta:
    """Either w1 or w1_a and w1_b, and either w2 (..., kh, kw) or w2_a and w2_b, perhaps with a core t2."""
    if "lokr_t2" in parts:
        second = _tucker(parts["lokr_t2"], parts["lokr_w2_a"].T, parts["lokr_w2_b"]).flatten(1)
        b1, a1 = _pair(parts, 1)
        return _dense(torch.kron(b1 @ a1, second) * scale, shape)
    (b1, a1), (b2, a2) = _pair(parts, 1), _pair(parts, 2)
    if not _smaller(len(a1) * len(a2), shape):
        return _dense(torch.kron(b1 @ a1, b2 @ a2) * scale, shape)
    return LowRank(torch.kron(b1, b2) * scale, torch.kron(a1, a2))


def difference(parts: Factors, shape: torch.Size, scale: float) -> Delta:
    """The change as it is; of a linear map also written as of a convolution of one pixel, and the other way round."""
    change = parts["diff"]
    return _dense(change if change.shape == shape else change.flatten(1), shape)


def rank(parts: Factors) -> int | None:
    """The rank that alpha is held against: None where nothing is factorised, and alpha means nothing."""
    name = next((n for n in ("down", "hada_w1_b", "lokr_w2_b", "lokr_w1_b") if n in parts), None)
    return None if name is None else len(parts[name])


def _pair(parts: Factors, i: int) -> Pair:
    """One side of a Kronecker product in two factors; of a whole matrix the other one is the identity."""
    whole = parts.get(f"lokr_w{i}")
    if whole is None:
        return parts[f"lokr_w{i}_a"], parts[f"lokr_w{i}_b"].flatten(1)
    whole = whole.flatten(1)
    out, into = whole.shape
    return (whole, torch.eye(into)) if into <= out else (torch.eye(out), whole)


def _dense(change: Tensor, shape: torch.Size) -> Dense:
    """A change of a weight of this shape, given as that or as (out, all the rest).

    Raises:
        RuntimeError: it is not of this shape.
    """
    if change.shape not in (shape, (shape[0], prod(shape[1:]))):
        raise RuntimeError(f"{tuple(change.shape)} is not {tuple(shape)}")
    return Dense(change.reshape(shape))


def _tucker(core: Tensor, out: Tensor, into: Tensor) -> Tensor:
    """(out, in, kh, kw) of a core (r, s, kh, kw) between out (out, r) and into (s, in)."""
    return torch.einsum("rs...,or,si->oi...", core, out, into)


def _smaller(rank: int, shape: torch.Size) -> bool:
    """Whether two factors of this rank are smaller than the matrix."""
    return len(shape) == 2 and rank * sum(shape) < prod(shape)
