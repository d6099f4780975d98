"""ANT: early denoising, which lays out the picture, keeps its direction; only later steps turn away from the concept.

Paper:      Li et al., "Set You Straight: Auto-Steering Denoising Trajectories to Sidestep Unwanted Concepts", ACM MM
            2025, arXiv 2504.12782
Provenance: written from the paper's description and from the published behaviour of the program (MIT), whose single
            form takes the last steps for the first, and computes the terms of a2 without gradients

With d = f*(x_t, c) - f*(x_t, 0), at latents that are in the middle of being denoised under the concept c,

    L = |f(x_t, c) - (f*(0) - d)|^2 + a2 |f(x_t, 0) - f*(0)|^2           behind the boundary (middle and late steps)
    L = a1 |f(x_t, c) - (f*(0) + d)|^2 + a2 |f(x_t, 0) - f*(0)|^2        before it

in the entries of each map at which the gradient of the loss is largest.
"""

from __future__ import annotations

from torch import Tensor

from excise.errors import SettingError
from excise.families.base import Family
from excise.methods.trained.ant_config import ANTConfig
from excise.methods.trained.base import Distilled
from excise.training.adapters import linears
from excise.training.blocks import Batch
from excise.training.losses import mse, push_away
from excise.training.problem import TrainingProblem


class ANT(Distilled[ANTConfig]):
    """The method as the registry knows it."""

    Config = ANTConfig
    for_one = True

    def check(self, problem: TrainingProblem, config: ANTConfig) -> None:
        super().check(problem, config)
        if config.by == "images":
            raise SettingError(
                "ANT tells early from late steps of a sampler, and noised pictures have none; use --set by=student or "
                "by=teacher."
            )

    def targets(self, family: Family, config: ANTConfig) -> list[str]:
        return linears(family, config.modules)

    def loss(self, batch: Batch, config: ANTConfig) -> Tensor:
        empty, concept = batch.teachers(batch.empty, batch.concept)
        early = batch.progress is not None and batch.progress < config.boundary
        goal = push_away(empty, concept, empty, -1.0 if early else 1.0)
        loss = (config.early_weight if early else 1.0) * mse(batch.student(batch.concept), goal)
        if not config.uncond_weight:
            return loss
        return loss + config.uncond_weight * mse(batch.student(batch.empty), empty)
