"""The settings of ESD; nothing here imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from excise.support.reading import read_with
from excise.support.settings import OMIT_DEFAULT
from excise.training.config import PROGRAM_ADAM, DistilledConfig

_OFFICIAL = {**PROGRAM_ADAM, "weights": "full", "lr": 1e-5, "steps": 1000}

_PROMPTED = ("negate", "neutral", "self", "anchor")  # targets that have a prompt, which an encoder reads


class ESDConfig(DistilledConfig):
    """Settings of ESD."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "canvas": {"lr": 1e-3, "steps": 120, "save_every": 20, "batch": 8, "rank": 8, "sampler_steps": 12},
        "official": _OFFICIAL,
        "official-explicit": {**_OFFICIAL, "variant": "u"},
        "later": {**_OFFICIAL, "base": "concept", "eta": 2.0, "by": "teacher", "lr": 5e-5, "steps": 200},
        "sdd": {"target": "self", "weights": "full", "by": "mean", "ema": 0.998, "lr": 1e-5, "steps": 1300},
        "trace": {"first": "uce", "earliest": 0.5, "retain_weight": 1.0},
        "all-but-one": {"target": "guidance", "weights": "full", "lr": 1e-5, "steps": 1000},
    }

    train: Literal["denoiser", "text_encoder"] = Field(
        "denoiser",
        description="The network to train: the denoiser, or all text encoders.",
        json_schema_extra=OMIT_DEFAULT,
    )
    encoder_maps: Literal["mlp", "all"] = Field(
        "mlp",
        description="Train the MLPs of the text encoders, or all of their linear maps.",
        json_schema_extra=OMIT_DEFAULT | read_with(train="text_encoder", target=_PROMPTED),
    )
    variant: Literal["x", "strict", "u"] = Field(
        "x",
        description="Train all of cross-attention (x), its keys and values (strict), or all other linear maps (u).",
        json_schema_extra=read_with(train="denoiser"),
    )
    target: Literal["negate", "neutral", "self", "anchor", "guidance"] = Field(
        "negate",
        description="What the concept's prediction becomes: negated; that of no prompt, by the untouched model or by "
        "the one in training (SDD); the anchor's; or its guidance alone the anchor's (All but One).",
    )
    uncond_weight: float = Field(
        1.0,
        ge=0,
        description="Weight of staying near the untouched model without a prompt.",
        json_schema_extra=OMIT_DEFAULT | read_with(target="guidance", train="denoiser"),
    )
    base: Literal["empty", "concept"] = Field(
        "empty",
        description="Where negation starts: the empty prompt (paper), or the concept (later program).",
        json_schema_extra=read_with(target="negate"),
    )
    eta: float = Field(
        1.0,
        ge=0,
        description="Strength of negation; with base=concept one more for the same effect.",
        json_schema_extra=read_with(target="negate"),
    )
    first: Literal["none", "uce"] = Field(
        "none",
        description="Train on top of a closed form, which becomes part of the edit (TRACE).",
        json_schema_extra=OMIT_DEFAULT,
    )
    retain_scale: float = Field(
        1.0,
        ge=0,
        description="Weight of retained states in the closed form.",
        json_schema_extra=OMIT_DEFAULT | read_with(first="uce"),
    )
    ridge: float = Field(
        0.5,
        gt=0,
        description="Pull towards the original weights in the closed form.",
        json_schema_extra=OMIT_DEFAULT | read_with(first="uce"),
    )
