"""Concept Ablation: on pictures of the anchor, the target's prompt predicts what the anchor's does.

Paper:      Kumari et al., "Ablating Concepts in Text-to-Image Diffusion Models", ICCV 2023, arXiv 2303.13516, eq. 5, 6
Provenance: written from the paper and from the published behaviour of the program (MIT)

With the model in training f, noised pictures x_t of the anchor a, drawn under its prompts, and the same prompts c with
the target in the anchor's place,

    L = |f(x_t, c) - sg f(x_t, a)|^2 + lambda |f(x_t, a) - e|^2        (target "model"; sg takes no gradients)
    L = |f(x_t, c) - e|^2                                              (target "noise"; e is the noise)

The goal is what the model in training predicts, not a frozen copy, as the paper has it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from excise.families.base import Family
from excise.methods.trained.base import Distilled
from excise.methods.trained.concept_ablation_config import ConceptAblationConfig
from excise.training.adapters import linears
from excise.training.blocks import Batch
from excise.training.losses import mse


class ConceptAblation(Distilled[ConceptAblationConfig]):
    """The method as the registry knows it."""

    Config = ConceptAblationConfig

    def targets(self, family: Family, config: ConceptAblationConfig) -> list[str]:
        return linears(family, config.modules)

    def loss(self, batch: Batch, config: ConceptAblationConfig) -> Tensor:
        if config.target == "noise":
            return mse(batch.student(batch.concept), batch.truth())
        with torch.set_grad_enabled(config.prior_weight > 0):
            anchor = batch.student(batch.anchor)
        loss = mse(batch.student(batch.concept), anchor.detach())
        return loss + config.prior_weight * mse(anchor, batch.truth()) if config.prior_weight else loss
