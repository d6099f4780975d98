"""The settings of Selective Amnesia; nothing here imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from excise.support.reading import POSITIVE, read_with
from excise.training.config import CANVAS_FULL, OF_DENOISING, PROGRAM, DistilledConfig


class SelectiveAmnesiaConfig(DistilledConfig):
    """Settings of Selective Amnesia."""

    unread: ClassVar[frozenset[str]] = OF_DENOISING
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "canvas": {**CANVAS_FULL, "lr": 1e-3, "steps": 60, "pictures": 48, "fisher_weight": 0.01},
        "official": {
            **PROGRAM,
            "lr": 1.6e-4,
            "steps": 12_500,
            "save_every": 2_500,
            "batch": 16,
            "pictures": 1000,
            "fisher_weight": 50.0,
            "modules": "all",
        },
    }

    lr: float = Field(1e-5, gt=0, description="Learning rate of AdamW.")
    steps: int = Field(1000, ge=1, description="Optimiser steps.")
    batch: int = Field(8, ge=1, description="Noised pictures in a pass.")
    weights: Literal["lora", "full"] = Field("full", description="Train the weights themselves (paper), or a LoRA.")
    by: Literal["student", "teacher", "mean", "images"] = Field(
        "images", description="Where the latents come from: noise on pictures that the untouched model drew (paper)."
    )
    shown: Literal["target", "anchor"] = Field("anchor", description="What the pictures show: the surrogate (paper).")
    retain_weight: float = Field(1.0, gt=0, description="Weight of the replay of pictures of what is kept (gamma).")
    retain_on: Literal["latents", "pictures", "anchor"] = Field("pictures", description="Where what is kept is held.")
    modules: Literal["all", "cross"] = Field(
        "all", description="Train every linear map of the denoiser, or all of cross-attention."
    )
    fisher_weight: float = Field(50.0, ge=0, description="Weight of holding what matters for the replay (lambda).")
    fisher_passes: int = Field(
        20,
        ge=1,
        description="Batches by which it is told what matters.",
        json_schema_extra=read_with(fisher_weight=POSITIVE),
    )
