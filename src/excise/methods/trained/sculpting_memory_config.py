"""The settings of Sculpting Memory; nothing here imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from excise.training.config import CANVAS_FULL, PROGRAM_ADAM, DistilledConfig


class SculptingMemoryConfig(DistilledConfig):
    """Settings of Sculpting Memory."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "canvas": {**CANVAS_FULL, "lr": 5e-4, "refresh": 20},
        "official": {
            **PROGRAM_ADAM,
            "lr": 3e-6,
            "lr_warmup": 0.3,
            "steps": 450,
            "batch": 2,
            "pictures": 100,
            "mask_passes": 50,
            "distil_weight": 0.0,
        },
    }

    steps: int = Field(500, ge=1, description="Optimiser steps.")
    lr: float = Field(3e-6, gt=0, description="Learning rate of AdamW.")
    lr_scheduler: Literal["constant", "cosine"] = Field(
        "cosine", description="Whether the learning rate stays, after its warm-up, or falls to zero."
    )
    batch: int = Field(2, ge=1, description="Noised pictures in a pass.")
    weights: Literal["lora", "full"] = Field("full", description="The weights themselves, for a mask chooses of them.")
    by: Literal["student", "teacher", "mean", "images"] = Field(
        "images", description="Where the latents come from: noise on pictures that the untouched model drew (paper)."
    )
    retain_weight: float = Field(0.25, ge=0, description="Weight of the superclass's own denoising (w_s).")
    retain_on: Literal["latents", "pictures", "anchor"] = Field("anchor", description="Where what is kept is held.")
    mask: Literal["none", "saliency", "dynamic"] = Field("dynamic", description="Which entries are trained.")
    mask_within: Literal["all", "map"] = Field("map", description="The largest of all maps together, or of each map.")
    distil_weight: float = Field(
        0.25, ge=0, description="Weight of staying near the untouched model under the superclass's prompt (w_d)."
    )
