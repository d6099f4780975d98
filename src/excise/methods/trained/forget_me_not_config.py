"""The settings of Forget-Me-Not; nothing here imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from excise.training.config import CANVAS_LORA, PROGRAM, DistilledConfig


class ForgetMeNotConfig(DistilledConfig):
    """Settings of Forget-Me-Not."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "canvas": {**CANVAS_LORA, "lr": 5e-4, "steps": 80, "save_every": 5},
        "official": {
            **PROGRAM,
            "weights": "full",
            "modules": "all",
            "lr": 2e-6,
            "steps": 35,
            "batch": 1,
            "pictures": 10,
        },
    }

    steps: int = Field(35, ge=1, description="Optimiser steps.")
    save_every: int = Field(5, ge=1, description="Steps between checkpoints that calibration chooses from.")
    batch: int = Field(4, ge=1, description="Noised pictures in a pass.")
    pictures: int = Field(8, ge=1, description="How many pictures are drawn of each target.")
    by: Literal["student", "teacher", "mean", "images"] = Field(
        "images", description="Where the latents come from: noise on pictures that the untouched model drew (paper)."
    )
    modules: Literal["cross_kv", "cross", "attention", "all"] = Field(
        "cross",
        description="Keys and values that read text, all of cross-attention, all attention, or every linear map of the "
        "denoiser.",
    )
