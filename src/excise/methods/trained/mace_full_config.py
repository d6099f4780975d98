"""The settings of MACE as a whole; nothing here imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from excise.methods.closed_form.config import BALANCED, Tokens
from excise.training.config import CANVAS_FUSION, CANVAS_LORA, FusedConfig

_REFINED = {"retain_tokens": "all", "ridge": 30.0}  # as the method `mace` has it


class MACEFullConfig(FusedConfig):
    """Settings of MACE as a whole."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "canvas": {**CANVAS_LORA, "rank": 1, "steps": 60, "balanced": True, "ridge": 0.03, **CANVAS_FUSION},
        "object": {**_REFINED, "lr": 1e-5},
        "instance": {**_REFINED, "lr": 1e-5},
        "style": {**_REFINED, "anchor": "art"},
        "person": {**_REFINED, "anchor": "a person"},
        "explicit": {
            **_REFINED,
            "anchor": "a person wearing clothes",
            "lr": 1e-5,
            "steps": 120,
            "earliest": 0.0,
            "latest": 1.0,
        },
    }

    rank: int = Field(1, ge=1, description="Rank of each adapter.")
    lr: float = Field(1e-4, gt=0, description="Learning rate of AdamW.")
    steps: int = Field(50, ge=1, description="Optimiser steps of each adapter.")
    save_every: int = Field(10, ge=1, description="Steps between checkpoints that calibration chooses from.")
    batch: int = Field(4, ge=1, description="Noised pictures in a pass.")
    pictures: int = Field(8, ge=1, description="How many pictures are drawn of each target.")
    by: Literal["student", "teacher", "mean", "images"] = Field(
        "images", description="Where the latents come from: noise on pictures that the untouched model drew (paper)."
    )
    earliest: float = Field(0.6, ge=0, lt=1, description="Share of the way from noise to picture done at least.")
    latest: float = Field(0.8, gt=0, le=1, description="Share of the way from noise to picture done at most.")
    threshold: float = Field(
        0.4, ge=0, le=1, description="Share of the strongest attention to the target's words from which a place counts."
    )
    retain_scale: float = Field(1.0, ge=0, description="Of the refinement: weight of retained states.")
    balanced: bool = BALANCED
    retain_tokens: Tokens = Field("all_but_start", description="Of the refinement: tokens of retained prompts.")
    ridge: float = Field(0.5, gt=0, description="Of the refinement: pull towards the original weights.")
