"""RGD: ascent on the target's denoising and descent on what is kept, each freed of its part against the other.

Paper:      "Boosting Alignment for Post-Unlearning Text-to-Image Generative Models", NeurIPS 2024, arXiv 2412.07808
Provenance: written from the paper's description; no code of it is used

On noised pictures x_t of the target c, and x' of prompts to retain, as unlike each other as there are,

    L_f = -min(|f(x_t, c) - e|^2, m)        L_r = |f(x'_t, r) - e|^2
    g   = g_f - min(0, <g_f, g_r>) / |g_r|^2 g_r + w (g_r - min(0, <g_f, g_r>) / |g_f|^2 g_f)

over the whole network. Beyond the bound m the target's own denoising is bad enough, and has no gradient any more.
"""

from __future__ import annotations

from torch import Tensor

from excise.families.base import Family
from excise.methods.trained.base import Distilled
from excise.methods.trained.rgd_config import RGDConfig
from excise.training.adapters import linears
from excise.training.blocks import Batch
from excise.training.losses import bounded_ascent, squares


class RGD(Distilled[RGDConfig]):
    """The method as the registry knows it."""

    Config = RGDConfig

    def targets(self, family: Family, config: RGDConfig) -> list[str]:
        return linears(family, config.modules)

    def loss(self, batch: Batch, config: RGDConfig) -> Tensor:
        return bounded_ascent(squares(batch.student(batch.concept), batch.truth()), config.bound)
