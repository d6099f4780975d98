"""The settings of Concept Ablation; nothing here imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from excise.support.reading import read_with
from excise.training.config import CANVAS_LORA, PROGRAM, DistilledConfig

_OFFICIAL = {**PROGRAM, "weights": "full", "batch": 4, "pictures": 1000}


class ConceptAblationConfig(DistilledConfig):
    """Settings of Concept Ablation."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "canvas": CANVAS_LORA,
        "canvas-sdxl": {**CANVAS_LORA, "retain_weight": 1.0},  # without it, neighbours go before the target does
        "official": {**_OFFICIAL, "lr": 8e-6, "steps": 200},
        "official-explicit": {**_OFFICIAL, "lr": 1.6e-5, "steps": 800, "modules": "attention", "prior_weight": 1.0},
        "memorised": {**_OFFICIAL, "lr": 2e-6, "steps": 400, "modules": "all", "prior_weight": 1.0},
    }

    steps: int = Field(200, ge=1, description="Optimiser steps.")
    lr: float = Field(1e-4, gt=0, description="Learning rate of AdamW.")
    batch: int = Field(4, ge=1, description="Noised pictures in a pass.")
    by: Literal["student", "teacher", "mean", "images"] = Field(
        "images", description="Where the latents come from: noise on pictures that the untouched model drew (paper)."
    )
    shown: Literal["target", "anchor"] = Field("anchor", description="What the pictures show.")
    target: Literal["model", "noise"] = Field(
        "model", description="What the target's prompt predicts: what the anchor's does, or the anchor's own noise."
    )
    modules: Literal["cross_kv", "cross", "attention", "all"] = Field(
        "cross_kv",
        description="Keys and values that read text (paper), all of cross-attention, all attention, or every linear "
        "map of the denoiser.",
    )
    prior_weight: float = Field(
        0.0,
        ge=0,
        description="Weight of the anchor's own denoising, which keeps it as it is.",
        json_schema_extra=read_with(target="model"),
    )
