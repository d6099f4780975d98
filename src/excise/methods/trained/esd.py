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

from torch import Tensor

from excise.errors import SettingError
from excise.families.base import Family
from excise.methods.trained.base import Distilled
from excise.methods.trained.esd_config import ESDConfig
from excise.training.adapters import other_linears
from excise.training.blocks import Batch
from excise.training.losses import mse, push_away
from excise.training.problem import TrainingProblem


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
