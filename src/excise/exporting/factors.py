"""An edit as the factors of a LoRA: every changed linear map or convolution as one pair."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from excise.edits.apply import networks, parted
from excise.edits.deltas import Dense, LowRank
from excise.edits.edit import Edit
from excise.errors import WrongBaseError
from excise.families.base import Family
from excise.families.networks import parameter_in
from excise.linalg.low_rank import compress

JOINED = 1e-8  # of the largest singular value; below it lies what joining added
REST = 2e-5  # of a dense change that may be left out; numbers of half precision are coarser by far


def check_maps(edit: Edit, family: Family) -> None:
    """Refuse what no LoRA can hold.

    Raises:
        WrongBaseError: the edit changes a bias, a norm, an embedding, or what lies beside a text encoder's layers.
    """
    found = networks(family)
    for path in edit.paths:
        part, rest = parted(path, found)
        module, name = parameter_in(found[part], rest)
        linear = isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1)
        outside = bool(part) and ".encoder.layers." not in path
        if not linear or name != "weight" or outside:
            raise WrongBaseError(
                f"a LoRA changes linear maps and convolutions alone, this edit also '{path}'; use --format merged"
                f"{' or single-file' if family.name in ('sd', 'sdxl') else ''}."
            )


def lora_factors(edit: Edit, weights: Mapping[str, Tensor]) -> dict[str, LowRank]:
    """Every changed weight as one pair of factors: parts are joined along the rank, which is exact.

    A convolution is a map of its window, (out, in * height * width). A joint rank above the smaller side of the weight
    is reduced to its numerical rank; a dense part to the rank at which `REST` of it is left out, or the file would hold
    the rounding of its numbers.
    """
    return {path: _factors(edit, path, weights[path].detach()) for path in edit.paths}


def _factors(edit: Edit, path: str, weight: Tensor) -> LowRank:
    parts = [m.low_rank(weight.flatten(1)) for m in edit.text_maps if path in m.modules]
    own = edit.modules.get(path)
    if isinstance(own, LowRank):
        parts.append(LowRank(own.b.to(parts[0].b) if parts else own.b, own.a.to(parts[0].a) if parts else own.a))
    elif isinstance(own, Dense):
        dw = own.dw.float().flatten(1)
        parts.append(LowRank(dw, torch.eye(dw.shape[1])))
    b, a = torch.cat([p.b.float() for p in parts], dim=1), torch.cat([p.a.float() for p in parts], dim=0)
    if isinstance(own, Dense) or b.shape[1] > min(b.shape[0], a.shape[1]):
        b, a = compress(b.double(), a.double(), tolerance=JOINED)
        if isinstance(own, Dense):
            sizes = b.square().sum(dim=0)  # the singular values
            rest = sizes.flip(0).square().cumsum(0).flip(0).sqrt()  # of the product from each one on
            rank = max(1, int((rest > REST * rest[0]).sum()))
            b, a = b[:, :rank], a[:rank]
    return LowRank(b.float().contiguous(), a.float().contiguous())


def padded(factors: Mapping[str, LowRank]) -> dict[str, LowRank]:
    """The same products at one rank, with zeros: for layouts whose readers mix up ranks that differ."""
    top = max(len(f.a) for f in factors.values())
    return {path: _padded(f, top) for path, f in factors.items()}


def _padded(factors: LowRank, rank: int) -> LowRank:
    missing = rank - len(factors.a)
    return LowRank(F.pad(factors.b, (0, missing)).contiguous(), F.pad(factors.a, (0, 0, 0, missing)).contiguous())


def shaped(factors: LowRank, shape: torch.Size) -> tuple[Tensor, Tensor]:
    """(down, up) as a file holds them for a weight of `shape`: of a convolution its window and one of a pixel."""
    if len(shape) == 2:
        return factors.a, factors.b
    return factors.a.view(-1, *shape[1:]), factors.b.view(*factors.b.shape, 1, 1)
