"""Sculpting Memory: the target becomes its superclass, in weights that are chosen anew on the way.

Paper:      "Sculpting Memory: Multi-Concept Forgetting in Diffusion Models via Dynamic Mask and Concept-Aware
            Optimization", ICCV 2025, arXiv 2504.09039
Provenance: written from accounts of the paper and from the published behaviour of the program; no code of it is used

On noised pictures x_t of the target c, with the same prompts s of its superclass (the anchor), and pictures x' of it,

    L = |f(x_t, c) - sg f(x_t, s)|^2 + w_s |f(x'_t, s) - e|^2 + w_d |f(x_t, s) - f*(x_t, s)|^2

in the half of each map's entries whose gradients are largest. A share of them, which falls to none, is exchanged every
so many steps: the smallest gradients among the chosen for the largest among the others. The program overwrites the
distillation term w_d before it is used.
"""

from __future__ import annotations

from torch import Tensor

from excise.families.base import Family
from excise.methods.trained.base import Distilled
from excise.methods.trained.sculpting_memory_config import SculptingMemoryConfig
from excise.training.blocks import Batch
from excise.training.losses import mse


class SculptingMemory(Distilled[SculptingMemoryConfig]):
    """The method as the registry knows it."""

    Config = SculptingMemoryConfig

    def targets(self, family: Family, config: SculptingMemoryConfig) -> list[str]:
        return [m.path for m in family.maps("cross")]

    def loss(self, batch: Batch, config: SculptingMemoryConfig) -> Tensor:
        superclass = batch.student(batch.anchor)
        loss = mse(batch.student(batch.concept), superclass.detach())
        if not config.distil_weight:
            return loss
        return loss + config.distil_weight * mse(superclass, batch.teacher(batch.anchor))
