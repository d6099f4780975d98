"""A LoRA that leaves whole blocks out: group lasso over the pairs of factors of each block (GS-LoRA, arXiv 2403.11530).

    L + alpha sum_g |theta_g|,    theta_g both factors of every map in block g

A gradient of the norm would never reach zero. The step here is the proximal one, theta_g <- theta_g max(0, 1 - lr alpha
/ |theta_g|) after each step of the optimiser, at which a block that is worth nothing ends at exactly zero and stays.
The optimiser's own steps have the size of the learning rate in every entry, so that alpha is to be about the square
root of a block's number of entries (tens to hundreds); with the published program's plain gradients it is 1e-4.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor

from excise.families.base import Family
from excise.families.roles import encoder_maps
from excise.training.adapters import Adapter


class SparseAdapter(Adapter):
    """A LoRA of which whole blocks may end at zero.

    Args:
        family, paths, rank, seed: as of `Adapter`.
        sparsity: alpha.
    """

    def __init__(self, family: Family, paths: Sequence[str], rank: int, seed: int, *, sparsity: float) -> None:
        super().__init__(family, paths, rank, seed)
        self._sparsity = sparsity
        inner = [*family.door_maps(), *family.attention_maps(), *encoder_maps(self.text_encoders)]
        blocks = {m.path: m.block for m in inner}
        self._silent: set[str] = set()  # an optimiser's momentum would move them again
        self._groups: dict[str, list[str]] = {}
        for path in self.paths:
            self._groups.setdefault(blocks.get(path, path), []).append(path)

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Set the trained values, by the names of `parameters`; blocks that are zero in them stay so."""
        super().load(state)
        self._silent = {
            block
            for block, paths in self._groups.items()
            if not any(bool(state[f"{path}.{part}"].any()) for path in paths for part in ("a", "b"))
        }

    @torch.no_grad()
    def settle(self, rate: float) -> None:
        """The proximal step of a learning rate."""
        factors = self.parameters
        for block, paths in self._groups.items():
            group = [factors[f"{path}.{part}"] for path in paths for part in ("a", "b")]
            norm = float(torch.stack([p.square().sum() for p in group]).sum().sqrt())
            shrink = max(0.0, 1 - rate * self._sparsity / norm) if norm and block not in self._silent else 0.0
            if not shrink:
                self._silent.add(block)
            for p in group:
                p.mul_(shrink)

    def blocks_without(self, paths: Collection[str]) -> list[str]:
        """The blocks that have none of these maps."""
        return [block for block, own in self._groups.items() if not set(own) & set(paths)]
