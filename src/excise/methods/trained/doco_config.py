"""The settings of DoCo; nothing here imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from excise.training.config import CANVAS_LORA, PROGRAM, DistilledConfig

_OFFICIAL = {
    **PROGRAM,
    "weights": "full",
    "lr": 4.8e-5,
    "steps": 1000,
    "warmup": 1000,
    "pictures": 1000,
    "retain_weight": 1e-6,
}


class DoCoConfig(DistilledConfig):
    """Settings of DoCo."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "canvas": {**CANVAS_LORA, "warmup": 40},
        "official": _OFFICIAL,
        "official-style": {**_OFFICIAL, "judge_lr": 5e-4},
    }

    lr: float = Field(1e-4, gt=0, description="Learning rate of AdamW.")
    steps: int = Field(400, ge=1, description="Optimiser steps.")
    batch: int = Field(8, ge=1, description="Noised pictures in a pass.")
    by: Literal["student", "teacher", "mean", "images"] = Field(
        "images", description="Where the latents come from: noise on pictures that the untouched model drew (paper)."
    )
    shown: Literal["target", "anchor"] = Field("anchor", description="What the pictures show.")
    retain_weight: float = Field(
        1.0, ge=0, description="Weight of the retain loss; a tiny one only takes out what is against it (program)."
    )
    retain_on: Literal["latents", "pictures", "anchor"] = Field("pictures", description="Where what is kept is held.")
    combine: Literal["sum", "project", "restricted"] = Field(
        "project", description="How the gradients of erasing and retaining meet."
    )
    modules: Literal["cross_kv", "cross", "attention"] = Field(
        "cross_kv", description="Keys and values that read text (program), all of cross-attention, or all attention."
    )
    warmup: int = Field(200, ge=0, description="Steps that the discriminator is trained alone first.")
    judge_lr: float = Field(1e-4, gt=0, description="Learning rate of the discriminator.")
