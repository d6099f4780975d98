"""The settings of SalUn; nothing here imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from excise.training.config import CANVAS_FULL, MASKED, PROGRAM_ADAM, DistilledConfig

_OFFICIAL = {
    **PROGRAM_ADAM,
    "lr": 1e-5,
    "batch": 8,
    "pictures": 800,
    "retain_weight": 0.1,
    "mask_passes": 100,
    "mask_guidance": 8.5,
}


class SalUnConfig(DistilledConfig):
    """Settings of SalUn."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "canvas": CANVAS_FULL,
        "official": {**_OFFICIAL, "steps": 500},
        "official-explicit": {**_OFFICIAL, "steps": 100},
    }

    steps: int = Field(500, ge=1, description="Optimiser steps.")
    lr: float = Field(1e-5, gt=0, description="Learning rate of AdamW.")
    batch: int = Field(8, ge=1, description="Noised pictures in a pass.")
    weights: Literal["lora", "full"] = Field("full", description="The weights themselves, for a mask chooses of them.")
    by: Literal["student", "teacher", "mean", "images"] = Field(
        "images", description="Where the latents come from: noise on pictures that the untouched model drew (paper)."
    )
    retain_weight: float = Field(
        0.5, ge=0, description="Weight of the denoising of pictures of what is kept (alpha); 0 leaves it out."
    )
    retain_on: Literal["latents", "pictures", "anchor"] = Field("pictures", description="Where what is kept is held.")
    mask: Literal["none", "saliency", "dynamic"] = Field("saliency", description="Which entries are trained.")
    train: Literal["all", "cross"] = Field(
        "all", description="Choose entries of every linear map of the denoiser, or of cross-attention alone."
    )
    mask_guidance: float = Field(
        7.5, ge=0, description="Guidance of the prediction that the mask is chosen by (s).", json_schema_extra=MASKED
    )
