"""LoRA factors of an edit: one pair of matrices for each changed linear layer or convolution."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from excise.edits.accounts import networks, split_path
from excise.edits.deltas import Dense, LowRank
from excise.edits.edit import Edit
from excise.errors import WrongBaseError
from excise.exporting.layouts import has_single_file
from excise.families.base import Family
from excise.families.networks import parameter_in
from excise.linalg.low_rank import compress

JOINED = 1e-8  # share of the largest singular value below which a direction is numerical noise of joining
REST = 2e-5  # share of a dense change that may be dropped; rounding to half precision is far coarser


def check_paths(edit: Edit) -> None:
    """Refuse an edit that changes no weight; raises WrongBaseError."""
    if not edit.paths:
        raise WrongBaseError(
            "this edit changes no weight, so there is nothing for a LoRA to hold; use --format merged."
        )


def check_maps(edit: Edit, family: Family) -> None:
    """Refuse an edit that no LoRA can represent.

    Raises:
        WrongBaseError: the edit changes a bias, a norm, an embedding, or part of a text encoder outside its layers.
    """
    roots = networks(family)
    for path in edit.paths:
        part, rest = split_path(path, roots)
        module, name = parameter_in(roots[part], rest)
        linear = isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1)
        outside = bool(part) and ".encoder.layers." not in path
        if not linear or name != "weight" or outside:
            raise WrongBaseError(
                f"a LoRA changes linear maps and convolutions alone, this edit also '{path}'; use --format merged"
                f"{' or single-file' if has_single_file(family.name) else ''}."
            )


def lora_factors(edit: Edit, weights: Mapping[str, Tensor]) -> dict[str, LowRank]:
    """Return, by path, the edit's change of a weight as one pair of factors.

    Several deltas of one weight are concatenated along the rank, which is exact. A convolution counts as a matrix
    (out, in * height * width). A joint rank above the smaller side of the weight is reduced to the numerical rank; a
    dense delta is cut at the rank that leaves out `REST` of it, since the remaining directions are rounding errors.

    Args:
        weights: by path, the weights of the base.
    """
    return {path: _factors(edit, path, weights[path].detach()) for path in edit.paths}


def _factors(edit: Edit, path: str, weight: Tensor) -> LowRank:
    parts = [m.low_rank(weight.flatten(1)) for m in edit.text_maps if path in m.modules]
    delta = edit.modules.get(path)
    if isinstance(delta, LowRank):
        parts.append(delta if not parts else LowRank(delta.b.to(parts[0].b), delta.a.to(parts[0].a)))
    elif isinstance(delta, Dense):
        dw = delta.dw.float().flatten(1)
        parts.append(LowRank(dw, torch.eye(dw.shape[1])))
    b, a = torch.cat([p.b.float() for p in parts], dim=1), torch.cat([p.a.float() for p in parts], dim=0)
    if isinstance(delta, Dense) or b.shape[1] > min(b.shape[0], a.shape[1]):
        b, a = compress(b.double(), a.double(), tolerance=JOINED)
        if isinstance(delta, Dense):
            sizes = b.square().sum(dim=0)  # the singular values
            rest = sizes.flip(0).square().cumsum(0).flip(0).sqrt()  # norm of the product from each value on
            rank = max(1, int((rest > REST * rest[0]).sum()))
            b, a = b[:, :rank], a[:rank]
    return LowRank(b.float().contiguous(), a.float().contiguous())


def padded(factors: Mapping[str, LowRank]) -> dict[str, LowRank]:
    """Return the same products, all factors padded with zeros to the largest rank, for readers that expect one rank."""
    top = max(len(f.a) for f in factors.values())
    return {path: _padded(f, top) for path, f in factors.items()}


def _padded(factors: LowRank, rank: int) -> LowRank:
    missing = rank - len(factors.a)
    return LowRank(F.pad(factors.b, (0, missing)).contiguous(), F.pad(factors.a, (0, 0, 0, missing)).contiguous())


def shaped(factors: LowRank, shape: torch.Size) -> tuple[Tensor, Tensor]:
    """Return (down, up) as a file stores them; for a convolution, one with its kernel and one of 1 x 1.

    Args:
        factors: of the weight as a matrix.
        shape: of the weight.
    """
    if len(shape) == 2:
        return factors.a, factors.b
    return factors.a.view(-1, *shape[1:]), factors.b.view(*factors.b.shape, 1, 1)
