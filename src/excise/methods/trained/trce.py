"""TRCE: prompts are first read as their safe twins, then early denoising is steered to the safe side.

Paper:      Chen et al., "TRCE: Towards Reliable Malicious Concept Erasure in Text-to-Image Diffusion Models", ICCV
            2025, arXiv 2503.07389
Provenance: written from the paper's description and from the published behaviour of the program, which pairs latents
            with the timestep before them and never clears its gradients; no code of it is used

Stage 1 is UCE's system on what follows the target's words, which holds most of what a prompt says. In stage 2, with the
untouched model f*, latents x_t of the first half of its denoising under the target c, the same prompt a of the anchor,

    s_p  = f*(p) + g (f*(p) - f*(0))
    h(y) = max(0, beta (|y - s_a|^2 - |y - s_c|^2 + m))
    L    = (h(f(x_t, c)) + h(f(x_t, 0))) / 2 + w |f(x_t, r) - f1(x_t, r)|^2

are trained the self-attention and the queries of cross-attention. f1 is the model after stage 1, r a prompt to retain.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from excise.errors import ExciseWarning
from excise.families.base import Family
from excise.methods.closed_form.uce import UCE
from excise.methods.closed_form.uce_config import UCEConfig
from excise.methods.trained.base import ClosedFormStage, Stepped, with_retention
from excise.methods.trained.trce_config import TRCEConfig
from excise.training.adapters import Weights
from excise.training.loop import Losses, Step
from excise.training.losses import squares
from excise.training.problem import TrainingProblem, TrainingResult
from excise.training.sources import Source


class TRCE(Stepped[TRCEConfig]):
    """The method as the registry knows it."""

    Config = TRCEConfig

    def closed_form(self, config: TRCEConfig) -> ClosedFormStage:
        return UCE(), UCEConfig(retain_scale=config.retain_scale, ridge=config.ridge)

    def train(self, problem: TrainingProblem, config: TRCEConfig) -> TrainingResult:
        """Train stage 2; a warning where stage 1 left nothing to it."""
        trained = super().train(problem, config)
        if not any(step.get("erase", step.get("loss", 0.0)) for step in trained.evidence["losses"]):
            warnings.warn(
                "TRCE's first stage alone brought every prompt to the safe side, so its second found nothing to do; "
                "name the target's safe twin with --anchor, or raise --set margin=...",
                ExciseWarning,
                stacklevel=2,
            )
        return trained

    def targets(self, family: Family, config: TRCEConfig) -> list[str]:
        return [
            m.path for m in family.attention_maps() if m.source == "self" or (m.source == "cross" and m.part == "q")
        ]

    def step(self, problem: TrainingProblem, config: TRCEConfig, weights: Weights, source: Source) -> Step:
        def step(generator: torch.Generator) -> Losses:
            batch = source.batch(generator)
            empty, safe, unsafe = batch.originals(batch.empty, batch.anchor, batch.concept)
            towards, away = (p + config.contrast_guidance * (p - empty) for p in (safe, unsafe))
            erase = (
                hinge(batch.student(batch.concept), towards, away, config)
                + hinge(batch.student(batch.empty), towards, away, config)
            ) / 2
            return with_retention(batch, erase, config)

        return step


def hinge(prediction: Tensor, towards: Tensor, away: Tensor, config: TRCEConfig) -> Tensor:
    """Mean of max(0, beta (|y - s_a|^2 - |y - s_c|^2 + m)) over a batch."""
    gap = squares(prediction, towards) - squares(prediction, away)
    return (config.beta * (gap + config.margin)).clamp(min=0).mean()
