"""The settings of EraseAnything; nothing here imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from excise.support.reading import POSITIVE, READ_ALWAYS, read_with
from excise.training.config import OF_MASKS, DistilledConfig

_CONTRAST = read_with(contrast_weight=POSITIVE)


class EraseAnythingConfig(DistilledConfig):
    """Settings of EraseAnything."""

    unread: ClassVar[frozenset[str]] = OF_MASKS | {"shown", "reuse", "retain_on", "sparsity", "ema"}
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "official": {
            "rank": 8,
            "lr": 1e-3,
            "steps": 200,
            "batch": 1,
            "sampler_steps": 28,
            "calibrate": "last",
            "teacher_lora": True,
            "matched_time": False,
            "one_sided": True,
        },
    }

    lr: float = Field(1e-3, gt=0, description="Learning rate of AdamW.")
    sampler_steps: int = Field(
        28, ge=2, description="Steps of the sampler that denoises the latents.", json_schema_extra=READ_ALWAYS
    )
    guidance: float = Field(
        1.0,
        ge=0,
        description="Guidance of latents and pictures that the model draws; 1 where it is built in (FLUX.1-dev), about "
        "4 where it is not (Stable Diffusion 3).",
        json_schema_extra=READ_ALWAYS,
    )
    balance: Literal["alternate", "implicit"] = Field(
        "alternate",
        description="The levels take turns, step by step, or both are in every step, the erase gradient freed of what "
        "is against the preserve gradient (EraseAnything++).",
    )
    eta: float = Field(1.0, ge=0, description="Strength of negation in the erase level.")
    erase_weight: float = Field(1.0, ge=0, description="Weight of negation.")
    attention_weight: float = Field(1e-3, ge=0, description="Weight of the attention that the concept's tokens get.")
    flow_weight: float = Field(0.1, ge=0, description="Weight of the model's own loss on pictures of what is kept.")
    contrast_weight: float = Field(0.1, ge=0, description="Weight of the contrast of attention.")
    temperature: float = Field(0.07, gt=0, description="Temperature of that contrast.", json_schema_extra=_CONTRAST)
    unrelated: int = Field(
        3, ge=1, description="Unrelated names in the contrast of a step.", json_schema_extra=_CONTRAST
    )
    pictures: int = Field(
        16,
        ge=1,
        description="Pictures of what is kept that the untouched model draws beforehand.",
        json_schema_extra=READ_ALWAYS,
    )
    teacher_lora: bool = Field(
        False, description="Let the model in training be its own teacher, as the published program does."
    )
    matched_time: bool = Field(
        True,
        description="Take latents at the timestep that they are denoised to; the published program denoises them to "
        "the end and draws another.",
    )
    one_sided: bool = Field(
        False,
        description="Contrast with the synonym in the middle and without gradients to unrelated names, as the "
        "published program does.",
        json_schema_extra=_CONTRAST,
    )
