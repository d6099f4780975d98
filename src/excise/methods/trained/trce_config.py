"""The settings of TRCE; nothing here imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from excise.training.config import CANVAS_LORA, PROGRAM, DistilledConfig


class TRCEConfig(DistilledConfig):
    """Settings of TRCE."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "canvas": {**CANVAS_LORA, "lr": 3e-4, "sampler_steps": 12, "retain_scale": 0.15, "ridge": 0.03},
        "official": {**PROGRAM, "weights": "full", "lr": 1e-6, "batch": 1, "steps": 300},
    }

    by: Literal["student", "teacher", "mean", "images"] = Field(
        "teacher", description="Where the latents come from: denoised by the untouched model (paper)."
    )
    latest: float = Field(0.52, gt=0, le=1, description="Share of the sampler's steps done at most (26 of 50).")
    retain_weight: float = Field(100.0, ge=0, description="Weight of staying near stage 1 on what is kept (w).")
    retain_scale: float = Field(1.0, ge=0, description="Of stage 1: weight of retained states.")
    ridge: float = Field(0.5, gt=0, description="Of stage 1: pull towards the original weights.")
    contrast_guidance: float = Field(15.0, ge=0, description="Guidance of the two sides (g).")
    beta: float = Field(1.0, gt=0, description="Slope of the hinge.")
    margin: float = Field(0.01, ge=0, description="By how much the safe side must be nearer (m).")
