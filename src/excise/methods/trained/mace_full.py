"""MACE, whole: refinement, one adapter for each concept that takes attention off its words, and their fusion.

Paper:      Lu et al., "MACE: Mass Concept Erasure in Diffusion Models", CVPR 2024, arXiv 2403.06135, eq. 2 to 7
Provenance: written from the paper and from the published behaviour of the official program; its licence is
            non-commercial, no code of it was used

1. Refinement: the words around a target read as if the target were its anchor (the method `mace`).
2. For each target a LoRA on keys and values of cross-attention, on pictures of it noised to the middle of drawing. With
   A_l the attention to the target's tokens in layer l, M where the picture shows it,

       L = sqrt( sum_l |A_l M|^2 )

3. Fusion: all LoRAs as one change that disturbs each of them least (`excise.edits.fuse`).

The paper cuts M out with a segmentation model. Here M is where the model itself attends to the target's words
before the adapter is there, so that no further model is needed (ours).
"""

from __future__ import annotations

import torch
from torch import Tensor

from excise.families.base import Family
from excise.methods.closed_form.mace import MACE
from excise.methods.closed_form.mace_config import MACEConfig
from excise.methods.trained.base import ClosedFormStage, Distilled
from excise.methods.trained.mace_full_config import MACEFullConfig
from excise.training.attention import captured, reading_layers
from excise.training.blocks import Batch
from excise.training.losses import attention_norm
from excise.training.masks import concept_mask


class MACEFull(Distilled[MACEFullConfig]):
    """The method as the registry knows it."""

    Config = MACEFullConfig
    located = True
    for_one = True

    def closed_form(self, config: MACEFullConfig) -> ClosedFormStage:
        return MACE(), MACEConfig(
            retain_scale=config.retain_scale,
            retain_tokens=config.retain_tokens,
            ridge=config.ridge,
            balanced=config.balanced,
        )

    def targets(self, family: Family, config: MACEFullConfig) -> list[str]:
        return [m.path for m in family.maps("cross_kv")]

    def loss(self, batch: Batch, config: MACEFullConfig) -> Tensor:
        family = batch.weights.family
        layers = reading_layers(family)
        words = [row.nonzero().flatten().tolist() for row in batch.concept.words]
        with captured(family, layers) as capture, torch.no_grad():
            batch.teacher(batch.concept)
        side = (batch.x_t.shape[-2], batch.x_t.shape[-1])
        mask = concept_mask([*capture.maps.values()], words, side, config.threshold)
        with captured(family, layers) as capture:
            batch.student(batch.concept)
        return attention_norm([*capture.maps.values()], batch.concept.words, mask)
