"""Small networks behind attention layers, trained in place of the model's own weights (Receler's erasers)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from excise.edits.deltas import Delta
from excise.families.base import Family
from excise.training.adapters import Weights


def bottleneck(hidden: Tensor, down: Tensor, up: Tensor) -> Tensor:
    """up gelu(down o) of an attention layer's output o (B, N, d); down (r, d), up (d, r), no biases."""
    return F.linear(F.gelu(F.linear(hidden.to(down), down)), up)


class Bottlenecks(Weights):
    """o' = o + up gelu(down o) behind each layer, `up` from zero, both in single precision.

    Args:
        family: its networks are changed inside the `with` block only.
        layers: paths of attention layers of the denoiser, whose output has as many columns as their input.
        rank: of the bottleneck. seed: of `down`.

    Attributes:
        added: by layer, what the latest pass added (B, N, d), with gradients; of a pass of the teacher, nothing.
    """

    def __init__(self, family: Family, layers: Sequence[str], rank: int, seed: int) -> None:
        super().__init__(family, layers)
        self._rank, self._seed, self._on = rank, seed, True
        self._factors: dict[str, tuple[nn.Parameter, nn.Parameter]] = {}
        self._handles: list[Any] = []
        self.added: dict[str, Tensor] = {}

    def _attach(self) -> None:
        generator = torch.Generator().manual_seed(self._seed)
        for path, place in self._places.items():
            layer: Any = place.module
            width, where = layer.to_q.in_features, layer.to_q.weight.device
            down = torch.randn(self._rank, width, generator=generator) / width**0.5
            up = torch.zeros(width, self._rank)
            self._factors[path] = (nn.Parameter(down.to(where)), nn.Parameter(up.to(where)))
            self._handles.append(layer.register_forward_hook(_Adding(self, path)))

    def _detach(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles, self._factors, self.added = [], {}, {}

    def add(self, path: str, hidden: Tensor) -> Tensor:
        """A layer's output with what its bottleneck adds."""
        if not self._on:
            self.added.pop(path, None)
            return hidden
        self.added[path] = bottleneck(hidden, *self._factors[path])
        return hidden + self.added[path].to(hidden)

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        return {
            f"{p}.{part}": v for p, two in self._factors.items() for part, v in zip(("down", "up"), two, strict=True)
        }

    @contextmanager
    def teacher(self) -> Iterator[None]:
        """The model without the bottlenecks, inside a `with` block."""
        before, self._on = self._on, False
        try:
            yield
        finally:
            self._on = before

    def deltas(self) -> Mapping[str, Delta]:
        """None: what is trained is no change of a weight."""
        return {}


class _Adding:
    """The hook of one layer."""

    def __init__(self, owner: Bottlenecks, path: str) -> None:
        self._owner, self._path = owner, path

    def __call__(self, layer: Any, args: Any, output: Tensor) -> Tensor:
        return self._owner.add(self._path, output)
