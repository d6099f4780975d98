"""Receler's erasers at work: what they add behind cross-attention while the model draws."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from excise.edits.hooks import Hook, tensor_of
from excise.errors import WrongBaseError
from excise.families.attached import Attaching
from excise.families.base import Family
from excise.training.bottlenecks import bottleneck


@dataclass(frozen=True, eq=False, kw_only=True)
class Erasers(Hook):
    """o' = o + up gelu(down o) behind attention layers.

    Attributes:
        layers: their paths. down: by layer (r, d). up: by layer (d, r).
    """

    kind: ClassVar[str] = "receler"

    layers: tuple[str, ...]
    down: Mapping[str, Tensor]
    up: Mapping[str, Tensor]

    def tensors(self) -> dict[str, Tensor]:
        every = {f"{path}.down": self.down[path] for path in self.layers}
        every |= {f"{path}.up": self.up[path] for path in self.layers}
        return {name: t.detach().float().cpu() for name, t in every.items()}

    def settings(self) -> dict[str, Any]:
        return {"layers": list(self.layers)}

    @classmethod
    def build(cls, tensors: Mapping[str, Tensor], settings: Mapping[str, Any]) -> Erasers:
        if set(settings) != {"layers"}:
            raise ValueError(f"the settings of the hook 'receler' are {sorted(settings)}, expected layers alone")
        layers = tuple(map(str, settings["layers"]))
        down = {path: tensor_of(tensors, f"{path}.down", (None, None)) for path in layers}
        up = {path: tensor_of(tensors, f"{path}.up", tuple(reversed(down[path].shape))) for path in layers}
        return cls(layers=layers, down=down, up=up)

    def put_on(self, family: Family, strength: float, attaching: Attaching) -> None:
        for path in self.layers:
            layer: Any = family.module(path)
            width = layer.to_q.in_features
            if self.down[path].shape[1] != width:
                raise WrongBaseError(
                    f"the edit's eraser behind '{path}' is {self.down[path].shape[1]} wide and the layer {width}; "
                    "erase again on this model."
                )
            attaching.after(layer, _Erasing(self.down[path], self.up[path], strength).add)


class _Erasing:
    """The hook at work on one layer."""

    def __init__(self, down: Tensor, up: Tensor, strength: float) -> None:
        self._down, self._up, self._strength = down, up, strength

    def add(self, layer: Any, args: Any, kwargs: Any, output: Tensor) -> Tensor:
        """The layer's output with what its eraser adds."""
        self._down, self._up = self._down.to(output.device).float(), self._up.to(output.device).float()
        return output + (self._strength * bottleneck(output, self._down, self._up)).to(output)
