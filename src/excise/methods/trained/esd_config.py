"""The settings of ESD; nothing here imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from excise.support.settings import OMIT_DEFAULT
from excise.training.config import DistilledConfig


class ESDConfig(DistilledConfig):
    """Settings of ESD."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "canvas": {"lr": 1e-3, "steps": 120, "save_every": 20, "batch": 8, "rank": 8, "sampler_steps": 12},
    }

    train: Literal["denoiser", "text_encoder"] = Field(
        "denoiser",
        description="The network to train: the denoiser, or all text encoders.",
        json_schema_extra=OMIT_DEFAULT,
    )
    encoder_maps: Literal["mlp", "all"] = Field(
        "mlp",
        description="Of train=text_encoder: train its MLPs, or all of its linear maps.",
        json_schema_extra=OMIT_DEFAULT,
    )
    variant: Literal["x", "strict", "u"] = Field(
        "x", description="Train all of cross-attention (x), its keys and values (strict), or all other linear maps (u)."
    )
    target: Literal["negate", "neutral", "anchor"] = Field(
        "negate", description="What the concept's prediction becomes."
    )
    base: Literal["empty", "concept"] = Field(
        "empty", description="Where negation starts: the empty prompt (paper), or the concept (later program)."
    )
    eta: float = Field(1.0, ge=0, description="Strength of negation; with base=concept one more for the same effect.")
