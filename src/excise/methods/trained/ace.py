"""ACE: the unconditional half of guidance learns the concept, so that guidance takes it out of every prompt's pictures.

Paper:      Wang et al., "ACE: Anti-Editing Concept Erasure in Text-to-Image Models", CVPR 2025, arXiv 2501.01633
Provenance: written from the paper's description and from the published behaviour of the program; no code of it is used

An editor asks with a harmless prompt for a picture that shows the concept; what the concept's own prompt gives does not
matter then, but guidance does: f(0) + s (f(p) - f(0)). With d_c = f*(c) - f*(0), d_r of a prompt r to retain,

    L_u = |f(x_t, 0) - (f*(0) + eta d_c - eta_s d_r)|^2        L_c = |f(x_t, c) - (f*(0) - eta d_c)|^2
    L   = l L_u + (1 - l) L_c + w |f(x_t, r) - f*(x_t, r)|^2

The paper's weight lambda_pl of the last term is w / (1 + w) here. Its relevance of each prior concept is left at 1.
"""

from __future__ import annotations

from torch import Tensor

from excise.families.base import Family
from excise.methods.trained.ace_config import ACEConfig
from excise.methods.trained.base import Distilled
from excise.training.adapters import block_linears
from excise.training.blocks import Batch
from excise.training.losses import mse, push_away


class ACE(Distilled[ACEConfig]):
    """The method as the registry knows it."""

    Config = ACEConfig
    for_one = True
    keeps_nothing = False

    def targets(self, family: Family, config: ACEConfig) -> list[str]:
        return block_linears(family) if config.modules == "all" else [m.path for m in family.maps("cross")]

    def loss(self, batch: Batch, config: ACEConfig) -> Tensor:
        prompts = batch.kept.prompts if batch.kept is not None else batch.retain
        kept = [] if prompts is None else [prompts]
        empty, concept, *prior = batch.teachers(batch.empty, batch.concept, *kept)
        goal = empty + config.eta * (concept - empty)
        if prior:
            goal = goal - config.eta_prior * (prior[0] - empty)
        share = config.uncond_share
        loss = share * mse(batch.student(batch.empty), goal)
        return loss + (1 - share) * mse(batch.student(batch.concept), push_away(empty, concept, empty, config.eta))
