"""SalUn: the target's prompt is remapped, and only the weights that matter for the target move.

Paper:      Fan et al., "SalUn: Empowering Machine Unlearning via Gradient-based Weight Saliency in Both Image
            Classification and Generation", ICLR 2024, arXiv 2310.12508, eq. 3, 5, 7
Provenance: written from the paper and from the published behaviour of the program (MIT)

On noised pictures x_t of the target c, with its anchor's prompt a, and pictures x' of what is kept,

    L = |f(x_t, c) - sg f(x_t, a)|^2 + alpha |f(x'_t, r) - e|^2

of the weights at which |sum of the gradients of L_f| is among the largest half, L_f = -|g - e|^2 with the guided
prediction g = f(x_t, 0) + s (f(x_t, c) - f(x_t, 0)). The others are bit-equal afterwards.
"""

from __future__ import annotations

from torch import Tensor

from excise.families.base import Family
from excise.methods.trained.base import Distilled
from excise.methods.trained.salun_config import SalUnConfig
from excise.training.adapters import linears
from excise.training.blocks import Batch
from excise.training.losses import mse


class SalUn(Distilled[SalUnConfig]):
    """The method as the registry knows it."""

    Config = SalUnConfig

    def targets(self, family: Family, config: SalUnConfig) -> list[str]:
        return linears(family, config.train)

    def loss(self, batch: Batch, config: SalUnConfig) -> Tensor:
        return mse(batch.student(batch.concept), batch.student(batch.anchor).detach())

    def forget(self, batch: Batch, config: SalUnConfig) -> Tensor:
        free, concept = batch.student(batch.empty), batch.student(batch.concept)
        return -mse(free + config.mask_guidance * (concept - free), batch.truth())
