"""The settings of RGD; nothing here imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from excise.training.config import CANVAS_LORA, OF_DENOISING, PROGRAM_ADAM, DistilledConfig

_CANVAS = {**CANVAS_LORA, "pictures": 64}


class RGDConfig(DistilledConfig):
    """Settings of RGD."""

    unread: ClassVar[frozenset[str]] = OF_DENOISING
    unbounded: ClassVar[frozenset[str]] = frozenset({"bound"})
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "canvas": _CANVAS,
        "canvas-sd": {**_CANVAS, "bound": 0.25},  # their own error is far below it; canvas-sana's is beyond it
        "canvas-sdxl": {**_CANVAS, "bound": 0.25},
        "canvas-sana": {**_CANVAS, "tie": "late"},  # its first checkpoint without the target stands on an edge
        "official": {
            **PROGRAM_ADAM,
            "weights": "full",
            "lr": 1e-5,
            "steps": 100,
            "batch": 8,
            "pictures": 800,
            "retain_weight": 1.6,
        },
    }

    batch: int = Field(8, ge=1, description="Noised pictures in a pass.")
    by: Literal["student", "teacher", "mean", "images"] = Field(
        "images", description="Where the latents come from: noise on pictures that the untouched model drew (paper)."
    )
    retain_weight: float = Field(1.5, ge=0, description="Weight of the denoising of pictures of what is kept (w).")
    retain_on: Literal["latents", "pictures", "anchor"] = Field("pictures", description="Where what is kept is held.")
    combine: Literal["sum", "project", "restricted"] = Field(
        "restricted", description="How the gradients of erasing and retaining meet."
    )
    modules: Literal["all", "cross"] = Field(
        "all", description="Train every linear map of the denoiser, or all of cross-attention."
    )
    bound: float = Field(
        1.1, gt=0, description="Error of the target's denoising at which ascent ends (m), in units of the noise."
    )
