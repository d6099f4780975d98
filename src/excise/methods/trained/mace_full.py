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

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from excise.concepts.concept import Concept
from excise.edits.deltas import Delta, add, on_cpu
from excise.edits.fuse import shares_of, times
from excise.families.base import Family
from excise.methods.closed_form.mace import MACE
from excise.methods.closed_form.mace_config import MACEConfig
from excise.methods.trained.base import ClosedFormStage, Distilled
from excise.methods.trained.mace_full_config import MACEFullConfig
from excise.methods.trained.material import filled
from excise.training.attention import captured, reading_layers
from excise.training.blocks import Batch
from excise.training.losses import attention_norm
from excise.training.masks import concept_mask
from excise.training.problem import TrainingProblem, TrainingResult


class MACEFull(Distilled[MACEFullConfig]):
    """The method as the registry knows it."""

    Config = MACEFullConfig
    located = True

    def closed_form(self, config: MACEFullConfig) -> ClosedFormStage:
        return MACE(), MACEConfig(
            retain_scale=config.retain_scale,
            retain_tokens=config.retain_tokens,
            ridge=config.ridge,
            balanced=config.balanced,
        )

    def targets(self, family: Family, config: MACEFullConfig) -> list[str]:
        return [m.path for m in family.maps("cross_kv")]

    def train(self, problem: TrainingProblem, config: MACEFullConfig) -> TrainingResult:
        """One adapter after the other, then their fusion."""
        trained = [
            super(MACEFull, self).train(_alone(problem, i, concept), config)
            for i, concept in enumerate(problem.concepts)
        ]
        if len(trained) == 1:
            return trained[0]
        modules = fused(problem, [t.modules for t in trained], config)
        evidence: dict[str, Any] = {c.name: t.evidence for c, t in zip(problem.concepts, trained, strict=True)}
        return TrainingResult(modules, {"judge": trained[0].evidence["judge"], "adapters": evidence})

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


def _alone(problem: TrainingProblem, number: int, concept: Concept) -> TrainingProblem:
    """The problem of one target, with a folder of its own for checkpoints."""
    folder = None if problem.folder is None else problem.folder / str(number)
    return replace(problem, concepts=[concept], folder=folder)


def fused(problem: TrainingProblem, changes: list[Mapping[str, Delta]], config: MACEFullConfig) -> Mapping[str, Delta]:
    """The adapters of all targets as one change of each map."""
    asked = [filled(problem, c, c.words) for c in problem.concepts]
    with problem.original():
        shares = shares_of(
            problem.family, asked, [*problem.retain, ""], config.fusion_retain_scale, config.fusion_ridge, problem.say
        )
    whole: dict[str, Delta] = {}
    for change, share in zip(changes, shares, strict=True):
        for path, delta in change.items():
            through = on_cpu(times(delta, share))
            whole[path] = add(whole[path], through) if path in whole else through
    return whole
