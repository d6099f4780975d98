"""ESD: the negated guidance of a frozen copy, distilled into the weights.

Paper:      Gandikota et al., "Erasing Concepts from Diffusion Models", ICCV 2023, arXiv 2303.07345, eq. 7
Provenance: written from the paper and from the published behaviour of both official programs (MIT)

With the frozen model f*, on latents x_t that are in the middle of being denoised under the concept c,

    L = |f(x_t, c) - g|^2,    g = f*(b) - eta (f*(c) - f*(0))        (target "negate", base b empty or c)
                              g = f*(0)   (target "neutral"),    g = f*(a), a the anchor   (target "anchor")

The first program has the empty prompt as base, the later one the concept itself: eta there is larger by one. The
coefficients of g sum to one, so it is the same target for noise, v and flow.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from excise.errors import SettingError
from excise.families.base import Family
from excise.methods.trained.base import Distilled
from excise.support.settings import OMIT_DEFAULT
from excise.training.adapters import other_linears
from excise.training.blocks import Batch
from excise.training.config import DistilledConfig
from excise.training.losses import mse, push_away
from excise.training.problem import TrainingProblem


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


class ESD(Distilled[ESDConfig]):
    """The method as the registry knows it."""

    Config = ESDConfig

    def check(self, problem: TrainingProblem, config: ESDConfig) -> None:
        super().check(problem, config)
        bare = [c.name for c in problem.concepts if not c.anchor]
        if config.target == "anchor" and bare:
            raise SettingError(f"target=anchor needs something to read '{bare[0]}' as; name it with --anchor.")

    def targets(self, family: Family, config: ESDConfig) -> list[str]:
        if config.train == "text_encoder":
            return [m.path for m in family.maps(f"text_{config.encoder_maps}")]
        if config.variant == "u":
            return other_linears(family)
        return [m.path for m in family.maps("cross_kv" if config.variant == "strict" else "cross")]

    def loss(self, batch: Batch, config: ESDConfig) -> Tensor:
        return mse(batch.student(batch.concept), goal(batch, config))


def goal(batch: Batch, config: ESDConfig) -> Tensor:
    """g, (B, c, h, w), from predictions of the frozen model."""
    if config.target == "anchor":
        return batch.teacher(batch.anchor)
    empty = batch.teacher(batch.empty)
    if config.target == "neutral":
        return empty
    concept = batch.teacher(batch.concept)
    return push_away(empty, concept, concept if config.base == "concept" else empty, config.eta)
