"""The settings of SLUG; nothing here imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from excise.support.settings import OMIT_DEFAULT
from excise.training.config import CANVAS_FUSION, OF_DENOISING, OF_MASKS, OF_OPTIMISER, FusedConfig


class SLUGConfig(FusedConfig):
    """Settings of SLUG."""

    unread: ClassVar[frozenset[str]] = (
        OF_DENOISING
        | OF_MASKS
        | OF_OPTIMISER
        | {
            *("weights", "rank", "save_every", "accumulate", "precision", "tracker"),
            *("calibrate", "keep", "tie", "retain_weight", "combine", "sparsity", "ema"),
        }
    )
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"canvas": {**CANVAS_FUSION, "batch": 16, "margin": 1.25}}

    steps: int = Field(8, ge=1, description="Batches whose gradients are summed.")
    batch: int = Field(4, ge=1, description="Noised pictures in a pass.")
    by: Literal["student", "teacher", "mean", "images"] = Field(
        "images", description="Where the latents come from: noise on pictures that the untouched model drew (paper)."
    )
    retain_weight: float = Field(1.0, gt=0, description="Kept at 1: what is kept only tells which layer is chosen.")
    retain_on: Literal["latents", "pictures", "anchor"] = Field("pictures", description="Where what is kept is held.")
    modules: Literal["text_all", "text_mlp", "cross", "attention"] = Field(
        "text_all", description="Layers to choose from: of the text encoders (paper), or attention of the denoiser."
    )
    candidates: int = Field(3, ge=1, description="Layers of the front for which a step is searched.")
    longest: float = Field(0.5, gt=0, description="Longest step, in lengths of the layer's weight.")
    bisections: int = Field(6, ge=1, description="Steps of the search.")
    margin: float = Field(
        1.0,
        ge=1,
        description="Times the shortest step found that erases, taken where it costs no more than one of the probes "
        "of what is kept; 1 for that one (paper).",
        json_schema_extra=OMIT_DEFAULT,
    )

    @classmethod
    def made_of(cls) -> str:
        """The shared blocks that the defaults choose."""
        return f"latents: {cls.model_fields['by'].default}; trained: one layer by one gradient"
