"""What a denoiser is given of prompts, row by row, and how the rows of several are joined."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from excise.errors import ModelError


@dataclass(frozen=True)
class Condition:
    """Prompts as the denoiser takes them.

    Attributes:
        inputs: by the name of the denoiser's argument, a tensor with one row a prompt.
        masks: by the name of an input whose dimension 1 may be padded, the name of the input that masks it (1 or True
            where a token counts). Inputs that are not named here cannot be padded.
    """

    inputs: Mapping[str, Tensor]
    masks: Mapping[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))

    def __getitem__(self, rows: Sequence[int] | Tensor) -> Condition:
        """Return some rows, in any order and any number of times."""
        return Condition({name: t[rows] for name, t in self.inputs.items()}, self.masks)

    def to(self, device: torch.device, dtype: torch.dtype) -> Condition:
        """Move all inputs to a device, and cast those of floating point to a precision."""
        moved = {n: t.to(device, dtype if t.is_floating_point() else t.dtype) for n, t in self.inputs.items()}
        return Condition(moved, self.masks)

    def detached(self) -> Condition:
        """The same without gradients."""
        return Condition({name: t.detach() for name, t in self.inputs.items()}, self.masks)

    @property
    def states(self) -> Tensor:
        """(n, L, d) what stands for each token of the prompts, all layers that are read of it side by side."""
        return next(t for t in self.inputs.values() if t.dim() > 2 and t.is_floating_point()).flatten(2)

    @property
    def shape(self) -> tuple[tuple[int, ...], ...]:
        """The shapes of the inputs without the number of prompts; equal shapes can be joined without padding."""
        return tuple(tuple(t.shape[1:]) for t in self.inputs.values())


def masked(states: Tensor, mask: Tensor) -> Condition:
    """Token states and the mask of those that count, by the names that most denoisers have for them."""
    inputs = {"encoder_hidden_states": states, "encoder_attention_mask": mask}
    return Condition(inputs, masks={"encoder_hidden_states": "encoder_attention_mask"})


def join(parts: Sequence[Condition]) -> Condition:
    """Put the rows of several conditions into one, padding masked inputs to the longest.

    Raises:
        ModelError: inputs that cannot be padded differ in length; see `grouped`.
    """
    masks = parts[0].masks
    padded = {*masks, *masks.values()}
    inputs = {}
    for name in parts[0].inputs:
        tensors = [part.inputs[name] for part in parts]
        lengths = sorted({t.shape[1] for t in tensors if t.dim() > 1})
        if len(lengths) > 1:
            if name not in padded:
                raise ModelError(
                    f"prompts of {lengths[0]} and of {lengths[-1]} tokens cannot stand in one batch of this model, in "
                    "which padding changes the picture; draw or train on prompts of one length at a time."
                )
            ends = [
                (*(0, 0) * (t.dim() - 2), 0, lengths[-1] - t.shape[1]) for t in tensors
            ]  # of the last dimension first
            tensors = [nn.functional.pad(t, end) for t, end in zip(tensors, ends, strict=True)]
        inputs[name] = torch.cat(tensors)
    return Condition(inputs, masks)


def grouped(conditions: Sequence[Condition]) -> list[list[int]]:
    """Indices of conditions that can be joined without padding, in order of first appearance."""
    groups: dict[tuple[tuple[int, ...], ...], list[int]] = {}
    for i, condition in enumerate(conditions):
        groups.setdefault(condition.shape, []).append(i)
    return list(groups.values())
