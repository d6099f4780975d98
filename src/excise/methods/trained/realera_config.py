"""The settings of RealEra; nothing here imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from excise.training.config import CANVAS_LORA, DistilledConfig


class RealEraConfig(DistilledConfig):
    """Settings of RealEra."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "canvas": {**CANVAS_LORA, "sampler_steps": 12, "retain_scale": 0.15, "ridge": 0.03},
    }

    modules: Literal["cross_kv", "cross", "attention"] = Field(
        "cross", description="Keys and values that read text, all of cross-attention, or all attention."
    )
    retain_scale: float = Field(1.0, ge=0, description="Of stage 1: weight of retained states.")
    ridge: float = Field(0.5, gt=0, description="Of stage 1: pull towards the original weights.")
    near: float = Field(0.5, gt=0, description="Radius of the neighbourhood, in lengths of the concept's states.")
    far: float = Field(1.5, gt=0, description="Where beyond it begins; states up to twice as far are held.")
    beyond_weight: float = Field(1.0, ge=0, description="Weight of holding what is beyond (lambda).")
