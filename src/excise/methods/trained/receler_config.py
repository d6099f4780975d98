"""The settings of Receler; nothing here imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field

from excise.support.reading import POSITIVE, read_with
from excise.training.config import CANVAS_LORA, OF_MASKS, PROGRAM_ADAM, DistilledConfig


class RecelerConfig(DistilledConfig):
    """Settings of Receler."""

    unread: ClassVar[frozenset[str]] = OF_MASKS | {
        *("weights", "sparsity", "ema", "retain_weight", "retain_on", "combine", "reuse")
    }
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "canvas": {
            **CANVAS_LORA,
            "rank": 32,
            "sampler_steps": 12,
            "adversary_steps": 3,
            "steps": 60,
            "save_every": 5,
            "calibrate": "kept",
            "keep": 0.92,
        },
        "official": PROGRAM_ADAM,
    }

    rank: int = Field(128, ge=1, description="Columns of the erasers.")
    lr: float = Field(3e-4, gt=0, description="Learning rate of AdamW.")
    steps: int = Field(500, ge=1, description="Optimiser steps of the erasers.")
    eta: float = Field(1.0, ge=0, description="Strength of negation.")
    local_weight: float = Field(0.1, ge=0, description="Weight of what the erasers add outside the concept (lambda).")
    threshold: float = Field(
        0.1,
        ge=0,
        le=1,
        description="Share of the strongest attention to the concept's words from which a place counts.",
    )
    tokens: int = Field(16, ge=1, description="States behind the concept's words that the adversary learns.")
    adversary_steps: int = Field(50, ge=0, description="Steps of the adversary for one of the erasers.")
    adversary_lr: float = Field(
        0.1,
        gt=0,
        description="Learning rate of the adversary.",
        json_schema_extra=read_with(adversary_steps=POSITIVE),
    )

    @classmethod
    def made_of(cls) -> str:
        """The shared blocks that the defaults choose."""
        return f"latents: {cls.model_fields['by'].default}; trained: erasers behind cross-attention"
