"""The settings of ACE; nothing here imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from excise.training.config import CANVAS_FUSION, CANVAS_LORA, PROGRAM_ADAM, RETAINING, FusedConfig


class ACEConfig(FusedConfig):
    """Settings of ACE."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "canvas": {
            **CANVAS_LORA,
            **CANVAS_FUSION,
            "sampler_steps": 12,
            "batch": 4,
            "eta": 0.3,
            "eta_prior": 0.3,
        },
        "published": {**PROGRAM_ADAM, "uncond_share": 0.99, "retain_weight": 4.0},
    }

    rank: int = Field(4, ge=1, description="Rank of the LoRA; its alpha is the same.")
    lr: float = Field(1e-3, gt=0, description="Learning rate of AdamW.")
    steps: int = Field(1500, ge=1, description="Optimiser steps.")
    sampler_steps: int = Field(30, ge=2, description="Steps of the sampler that denoises the latents.")
    modules: Literal["all", "cross"] = Field(
        "all", description="Train every linear map inside the attention blocks, or all of cross-attention."
    )
    eta: float = Field(3.0, ge=0, description="How far both halves of guidance move along the concept (eta).")
    eta_prior: float = Field(
        3.0,
        ge=0,
        description="How far the unconditional half moves off what is kept (eta_s).",
        json_schema_extra=RETAINING,
    )
    uncond_share: float = Field(0.8, ge=0, le=1, description="Share of the unconditional half in the loss (lambda_0).")
    retain_weight: float = Field(
        1.0, ge=0, description="Weight of staying near the untouched model on prompts to keep."
    )
