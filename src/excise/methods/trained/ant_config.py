"""The settings of ANT; nothing here imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from excise.support.reading import POSITIVE, read_with
from excise.support.settings import OMIT_DEFAULT
from excise.training.config import CANVAS_FULL, CANVAS_FUSION, CANVAS_LORA, PROGRAM, PROGRAM_ADAM, FusedConfig


class ANTConfig(FusedConfig):
    """Settings of ANT."""

    unread: ClassVar[frozenset[str]] = frozenset({"shown"})  # by=images is refused
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "canvas": {**CANVAS_FULL, **CANVAS_FUSION, "sampler_steps": 12},
        "canvas-lora": {**CANVAS_LORA, **CANVAS_FUSION, "sampler_steps": 12, "weights": "lora", "mask": "none"},
        "official": PROGRAM_ADAM,
        "multi": {
            **PROGRAM,
            "weights": "lora",
            "mask": "none",
            "rank": 64,
            "steps": 10,
            "batch": 2,
            "guidance": 7.5,
            "boundary": 0.08,
            "early_weight": 0.5,
            "uncond_weight": 2.5,
        },
    }

    lr: float = Field(5e-4, gt=0, description="Learning rate of AdamW.")
    steps: int = Field(250, ge=1, description="Optimiser steps.")
    weights: Literal["lora", "full"] = Field("full", description="The weights themselves (single concepts), or a LoRA.")
    mask: Literal["none", "saliency", "dynamic"] = Field("saliency", description="Which entries are trained.")
    mask_within: Literal["all", "map"] = Field("map", description="The largest of all maps together, or of each map.")
    pictures: int = Field(
        16,
        ge=1,
        description="How many pictures are drawn of what is kept (retain_on).",
        json_schema_extra=OMIT_DEFAULT | read_with(retain_weight=POSITIVE, retain_on=("pictures", "anchor")),
    )
    modules: Literal["all", "cross"] = Field(
        "all", description="Train every linear map of the denoiser, or all of cross-attention."
    )
    boundary: float = Field(
        0.14, ge=0, le=1, description="Share of the sampler's steps that count as early (7 of 50), and keep their way."
    )
    early_weight: float = Field(
        1.0,
        ge=0,
        description="Weight of the concept's own direction in early steps (a1).",
        json_schema_extra=read_with(boundary=POSITIVE),
    )
    uncond_weight: float = Field(0.5, ge=0, description="Weight of keeping the unconditional prediction (a2).")
