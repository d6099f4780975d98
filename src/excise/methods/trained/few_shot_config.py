"""The settings of few-shot erasing; nothing here imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from excise.training.config import CANVAS_LORA, OF_DENOISING, PROGRAM_ADAM, DistilledConfig


class FewShotConfig(DistilledConfig):
    """Settings of few-shot erasing."""

    unread: ClassVar[frozenset[str]] = OF_DENOISING
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "canvas": {**CANVAS_LORA, "lr": 3e-4, "steps": 120, "save_every": 6, "retain_weight": 1.0},
        "official": {
            **PROGRAM_ADAM,
            "weights": "full",
            "lr": 1e-5,
            "beta2": 0.98,
            "steps": 10,
            "batch": 2,
            "pictures": 4,
            "bound": 0.0,
        },
    }

    steps: int = Field(50, ge=1, description="Optimiser steps.")
    save_every: int = Field(5, ge=1, description="Steps between checkpoints that calibration chooses from.")
    batch: int = Field(4, ge=1, description="Noised pictures in a pass.")
    pictures: int = Field(8, ge=1, description="How many pictures are drawn of each target.")
    by: Literal["student", "teacher", "mean", "images"] = Field(
        "images", description="Where the latents come from: noise on pictures that the untouched model drew (paper)."
    )
    last_attention: bool = Field(True, description="Train the attention of the last layer too, not the MLPs alone.")
    bound: float = Field(
        2.0,
        ge=0,
        description="Error of the target's denoising at which ascent ends, in units of the noise; 0 for never.",
    )
