"""Guided calls of a denoiser: which calls a pipeline makes in classifier-free guidance, and what each row stands for.

The pipelines of families with the capability `guided_call` put both halves of guidance into one call, the unconditional
rows first; others make two calls, or have one half. Only the pipeline knows whether it does so at a step, so it is
asked while it runs: a call of the denoiser by anything else (`Family.predict` in training and in attacks, a user's own
loop) is never taken for a guided one.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DiffusionPipeline
from diffusers.pipelines.pag.pag_utils import PAGMixin
from torch import Tensor

from excise.errors import ModelError
from excise.families.conditions import Condition


@dataclass(frozen=True)
class GuidedCall:
    """One call of the denoiser with both halves of guidance.

    Attributes:
        step: calls of the denoiser that this generation made before.
        rows: pictures that are drawn; the call has twice as many rows.
    """

    step: int
    rows: int

    @property
    def unconditional(self) -> slice:
        """The rows that guidance moves away from."""
        return slice(0, self.rows)

    @property
    def conditional(self) -> slice:
        """The rows of the prompts."""
        return slice(self.rows, 2 * self.rows)


class GuidedCalls:
    """Follows the calls of one denoiser through its generations."""

    def __init__(self) -> None:
        self._timesteps: Any = None
        self._step = 0

    def current(self, rows: int) -> GuidedCall | None:
        """The guided call that is being made, or None; to be asked once in each call of the denoiser.

        Args:
            rows: of the call, both halves together.
        """
        running = _running()
        if running is None:
            return None
        pipe = running[0]
        # A scheduler makes its timesteps anew for every generation.
        timesteps = pipe.scheduler.timesteps
        self._step = self._step + 1 if timesteps is self._timesteps else 0
        self._timesteps = timesteps
        return GuidedCall(self._step, rows // 2) if _guides(*running, rows) else None


def conditional_rows(rows: int) -> slice:
    """The rows of the prompts in the call of the denoiser that is being made: the second half of a guided one."""
    running = _running()
    return slice(rows // 2, rows) if running is not None and _guides(*running, rows) else slice(0, rows)


def running_pipeline() -> Any:
    """The pipeline whose call this runs in, or None. It need not be the one that an adapter holds."""
    running = _running()
    return None if running is None else running[0]


def _running() -> tuple[Any, Mapping[str, Any]] | None:
    """The pipeline whose call this runs in, and the variables of that call."""
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == "__call__":
            owner = frame.f_locals.get("self")
            if isinstance(owner, DiffusionPipeline):
                return owner, frame.f_locals
        frame = frame.f_back  # type: ignore[assignment]
    return None


def _guides(pipe: Any, variables: Mapping[str, Any], rows: int) -> bool:
    """Return whether a call of a pipeline holds both halves of guidance.

    Raises:
        ModelError: it holds a third part, or one half alone.
    """
    if isinstance(pipe, PAGMixin) and pipe.do_perturbed_attention_guidance:
        raise ModelError(
            "the pipeline draws with perturbed-attention guidance, which an edit that acts on guidance does not know; "
            "draw with pag_scale=0."
        )
    # PixArt's pipelines keep it to their call, those of FLUX.1 and Qwen-Image have another name for it.
    told = variables.get("do_classifier_free_guidance", variables.get("do_true_cfg", False))
    guided = getattr(pipe, "do_classifier_free_guidance", told)
    latents = variables.get("latents")
    if guided and isinstance(latents, Tensor) and len(latents) == rows:
        raise ModelError(
            f"{type(pipe).__name__} asks its denoiser for both halves of guidance one after the other, which an edit "
            "that acts on guidance does not know; draw without guidance, or erase with a method that changes weights."
        )
    return bool(guided) and rows % 2 == 0


def rows_of(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int:
    """Rows of a call of a denoiser, from its latents."""
    latents: Tensor = args[0] if args else kwargs.get("sample", kwargs.get("hidden_states"))
    return len(latents)


def with_rows(
    args: tuple[Any, ...], kwargs: Mapping[str, Any], call: GuidedCall, condition: Condition
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a guided call for its conditional rows alone, under another condition.

    Args:
        condition: one row, or as many as pictures are drawn.
    """
    whole = 2 * call.rows

    def part(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value[call.conditional] if value.ndim and len(value) == whole else value
        if isinstance(value, Mapping):
            return {k: part(v) for k, v in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)(part(v) for v in value)
        return value

    halved = {name: part(value) for name, value in kwargs.items()}
    return tuple(part(value) for value in args), _replaced(halved, condition, slice(0, call.rows))


def with_condition(kwargs: Mapping[str, Any], condition: Condition, rows: slice) -> dict[str, Any]:
    """The keyword arguments of a call with other conditions in some of its rows.

    Raises:
        ModelError: the prompts of the call are longer or shorter than the condition.
    """
    return _replaced(dict(kwargs), condition, rows)


def condition_of(kwargs: Mapping[str, Any], names: Mapping[str, Any], rows: slice) -> Condition:
    """What a call hands to the denoiser for some rows, of the inputs that are named."""
    return Condition({name: _holder(kwargs, name)[name][rows] for name in names})


def _replaced(kwargs: dict[str, Any], condition: Condition, rows: slice) -> dict[str, Any]:
    for name, new in condition.inputs.items():
        before: Tensor = _holder(kwargs, name)[name]
        count = len(range(*rows.indices(len(before))))
        rest = [before[: rows.start], before[rows.stop :]]
        if any(len(r) for r in rest) and new.shape[1:] != before.shape[1:]:
            raise ModelError(
                f"the denoiser is given prompts of shape {tuple(before.shape[1:])}, the edit holds one of "
                f"{tuple(new.shape[1:])}; draw with prompts as the pipeline encodes them itself."
            )
        added = new.to(before.device, before.dtype).expand(count, *new.shape[1:])
        whole = torch.cat([rest[0], added, rest[1]]) if any(len(r) for r in rest) else added
        if name in kwargs:
            kwargs[name] = whole
        else:
            kwargs["added_cond_kwargs"] = {**kwargs["added_cond_kwargs"], name: whole}
    return kwargs


def _holder(kwargs: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """The arguments that an input of the denoiser is among: SDXL has its pooled prompt one level down."""
    holder: Mapping[str, Any] = kwargs if name in kwargs else kwargs.get("added_cond_kwargs") or {}
    if name not in holder:
        raise ModelError(f"the pipeline hands no '{name}' to its denoiser by name, which the edit in force needs.")
    return holder
