"""The settings of AdvUnlearn; nothing here imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from excise.support.reading import read_with
from excise.training.config import CANVAS_LORA, PROGRAM_ADAM, DistilledConfig

_OFFICIAL = {**PROGRAM_ADAM, "weights": "full", "lr": 1e-5, "batch": 1}


class AdvUnlearnConfig(DistilledConfig):
    """Settings of AdvUnlearn."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "canvas": {
            **CANVAS_LORA,
            "sampler_steps": 6,
            "batch": 4,
            "warmup_steps": 20,
            "attack_steps": 5,
            "attack_lr": 0.03,
        },
        "official": _OFFICIAL,
        "official-explicit": {**_OFFICIAL, "retain_weight": 0.3},
        "fast": {"attack": "fast"},
    }

    steps: int = Field(1000, ge=1, description="Optimiser steps.")
    lr: float = Field(1e-4, gt=0, description="Learning rate of AdamW.")
    encoder_maps: Literal["mlp", "all"] = Field(
        "all", description="Train the MLPs of the text encoders, or all of their linear maps."
    )
    eta: float = Field(1.0, ge=0, description="Strength of negation.")
    retain_weight: float = Field(
        1.0, ge=0, description="Weight of staying near the untouched model on what is kept (gamma; 0.3 for nudity)."
    )
    warmup_steps: int = Field(200, ge=0, description="Passes before the attack begins.")
    attack: Literal["adam", "fast"] = Field(
        "adam", description="Several steps of Adam, or a single one along the sign of the gradient."
    )
    words: int = Field(1, ge=1, description="Words that the attack learns (k).")
    attack_steps: int = Field(30, ge=1, description="Steps of the attack.", json_schema_extra=read_with(attack="adam"))
    attack_lr: float = Field(
        1e-3, gt=0, description="Learning rate of the attack.", json_schema_extra=read_with(attack="adam")
    )
    fast_step: float = Field(
        0.5,
        gt=0,
        description="Length of the attack's step, in lengths of a word.",
        json_schema_extra=read_with(attack="fast"),
    )
