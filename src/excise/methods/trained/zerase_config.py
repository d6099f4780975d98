"""The settings of zerase; nothing here imports torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from excise.training.config import DistilledConfig


class ZEraseConfig(DistilledConfig):
    """Settings of zerase."""

    lr: float = Field(1e-3, gt=0, description="Learning rate of AdamW.")
    sampler_steps: int = Field(9, ge=2, description="Steps of the sampler that denoises the latents.")
    guidance: float = Field(
        1.0,
        ge=0,
        description="Guidance of the sampler that denoises the latents; 1 for models that draw without any (Z-Image "
        "Turbo).",
    )
    retain_weight: float = Field(
        1.0,
        ge=0,
        description="Weight of staying near the untouched model on prompts to keep and the empty one; 0 leaves it out.",
    )
    combine: Literal["sum", "project", "restricted"] = Field(
        "project",
        description="Free the erase gradient of what is against the gradient of retention, or either of what is "
        "against the other, or add the losses.",
    )
