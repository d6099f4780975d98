"""The settings of SPM; nothing here imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from excise.training.config import CANVAS_LORA, PROGRAM, DistilledConfig

_CANVAS = {**CANVAS_LORA, "rank": 1, "sampler_steps": 12, "anchoring_weight": 10.0}


class SPMConfig(DistilledConfig):
    """Settings of SPM."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "canvas": _CANVAS,
        "canvas-sana": {**_CANVAS, "lr": 3e-3, "steps": 120, "anchoring_weight": 1.0, "retain_weight": 3.0},
        "official": {
            **PROGRAM,
            "steps": 3000,
            "lr_warmup": 1 / 6,
            "lr_cycles": 3,
            "batch": 1,
            "anchoring_weight": 1000.0,
        },
    }

    rank: int = Field(1, ge=1, description="Rank of the adapters; their alpha is the same.")
    lr: float = Field(1e-4, gt=0, description="Learning rate of AdamW.")
    lr_scheduler: Literal["constant", "cosine"] = Field(
        "cosine", description="Whether the learning rate stays, after its warm-up, or falls to zero."
    )
    steps: int = Field(3000, ge=1, description="Optimiser steps.")
    save_every: int = Field(500, ge=1, description="Steps between checkpoints that calibration chooses from.")
    sampler_steps: int = Field(30, ge=2, description="Steps of the sampler that denoises the latents.")
    calibrate: Literal["hmean", "constrained", "kept", "last"] = Field(
        "constrained",
        description="How the checkpoint is chosen, where a judge looks at what the gate lets through.",
    )
    gate: bool = Field(
        True,
        description="Open the adapters only for prompts near the concept, while the model draws; with a CLIP text "
        "encoder. Without, the edit is a change of weights.",
    )
    eta: float = Field(1.0, ge=0, description="Strength of negation.")
    anchoring_weight: float = Field(
        1000.0, ge=0, description="Weight of staying near the untouched model at random text states (lambda)."
    )
