"""The settings of ScaPre; nothing here imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from excise.methods.closed_form.config import MethodConfig
from excise.support.reading import POSITIVE, read_with

_SCORED = read_with(relevance=("mask", "ratio"))
_ENTROPY = ({"form": "scale", "mu": None}, {"form": "scale", "spherical": True}, {"form": "small"})
_BY_ENTROPY = read_with(*_ENTROPY)
_GATED = read_with({"form": "scale", "gate": True}, {"form": "small", "project": True})

_OFFICIAL = {"tokens": "from_last", "retain_tokens": "all_but_start", "prompts": "name"}
# What measures best on the built-in models (docs/methods/scapre.md).
_RETAINING = {"erase_scale": 1.0, "retain_scale": 3.0, "relevance": "none", "geometry": 0}
# On real models few names represent everything to retain, and the states after a subject hold the rest of the prompt,
# so only the last subject token is edited.
_LAST = {"tokens": "last", "retain_tokens": "last"}


class ScaPreConfig(MethodConfig):
    """Settings of ScaPre; presets add the retain term, those named official are the programs' recipes."""

    sweep: ClassVar[tuple[str, tuple[float, ...]]] = ("retain_scale", (0.0, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0))
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        **{kind: {**_RETAINING, **_LAST} for kind in ("object", "instance", "person", "style", "explicit")},
        "canvas": _RETAINING,
        "canvas-flux": {**_RETAINING, "pooled_weight": 0.03},
        "official": _OFFICIAL,
        "official-few": {**_OFFICIAL, "form": "small", "erase_scale": 1.0, "power": 2.0},
        "official-style": {**_OFFICIAL, "erase_scale": 2.0, "power": 8.0, "gate": True, "entropy_copies": 30},
        "official-explicit": {**_OFFICIAL, "erase_scale": 2.0, "relevance": "none"},
        "paper": {"form": "paper", "erase_scale": 1.0, "relevance": "ratio"},
    }

    form: Literal["scale", "small", "paper"] = Field(
        "scale", description="The program for many concepts, the one for few, or the paper's Sylvester equation."
    )
    erase_scale: float = Field(3.0, ge=0, description="Weight of the concepts to erase (s).")
    retain_scale: float = Field(
        0.0, ge=0, description="Weight of all retained states against all targets (p); the paper has no such term."
    )
    ridge: float = Field(0.5, gt=0, description="Pull towards the original weights (lambda); larger is gentler.")
    relevance: Literal["mask", "ratio", "cosine", "none"] = Field(
        "mask",
        description="Relevance of rows: mutual information as a soft mask (the program) or over its largest value (the "
        "paper), the row's squared cosine with the concept, or the same for all.",
    )
    elsewhere: Literal["zero", "own"] = Field(
        "zero",
        description="Output for a concept of rows with little relevance to it: zero, or their own.",
        json_schema_extra=read_with(form=("scale", "small"), relevance=("mask", "ratio", "cosine")),
    )
    temperature: float = Field(
        0.7,
        gt=0,
        description="Temperature of the soft mask; smaller is sharper.",
        json_schema_extra=read_with(relevance="mask"),
    )
    power: float = Field(
        5.0,
        ge=0,
        description="Power of the soft mask, or of the cosine; larger selects fewer rows.",
        json_schema_extra=read_with(relevance=("mask", "cosine")),
    )
    noise: float = Field(
        0.01,
        ge=0,
        description="Standard deviation of the noise on concepts when rows are scored, or their entropy is measured.",
        json_schema_extra=read_with({"relevance": ("mask", "ratio")}, *_ENTROPY),
    )
    copies: int = Field(
        5, ge=1, description="Noisy copies of each concept when rows are scored.", json_schema_extra=_SCORED
    )
    mu: float | None = Field(
        None,
        ge=0,
        description="Further pull towards the original weights; null takes the mean entropy of each map.",
        json_schema_extra=read_with(form="scale"),
    )
    entropy_copies: int = Field(
        20, ge=1, description="Noisy copies of each concept when entropy is measured.", json_schema_extra=_BY_ENTROPY
    )
    bins: int = Field(20, ge=2, description="Bins of the entropy.", json_schema_extra=_BY_ENTROPY)
    gate: bool = Field(
        False,
        description="Spectral gate (the paper's trace regulariser): damp changes along weak directions of C.",
        json_schema_extra=read_with(form=("scale", "paper")),
    )
    gate_temperature: float = Field(
        1.0,
        gt=0,
        description="Softness of the gate, and of the spectral projector of `project`.",
        json_schema_extra=_GATED,
    )
    gate_power: float = Field(
        1.0, ge=0, description="Power of the gate, and of that projector.", json_schema_extra=_GATED
    )
    geometry: int = Field(
        1,
        ge=0,
        description="Steps of the geometry alignment, of which form=paper makes one; 0 for none.",
        json_schema_extra=read_with(form=("scale", "paper")),
    )
    geometry_weight: float = Field(
        1.0,
        ge=0,
        description="How far back along the Bures geodesic (beta).",
        json_schema_extra=read_with(form="paper", geometry=POSITIVE),
    )
    spherical: bool = Field(
        False,
        description="Interpolate each row with its original on the sphere, by its entropy.",
        json_schema_extra=read_with(form="scale"),
    )
    project: bool = Field(
        False,
        description="Also subtract the part of the concepts outside of the spectral projector.",
        json_schema_extra=read_with(form="small"),
    )
    residual: float | None = Field(
        None,
        ge=0,
        description="Weight of `project`; null takes erase_scale.",
        json_schema_extra=read_with(form="small", project=True),
    )
    least: float = Field(
        0.8,
        ge=0,
        le=1,
        description="Smallest share of its change that a row keeps.",
        json_schema_extra=read_with(form="small"),
    )
