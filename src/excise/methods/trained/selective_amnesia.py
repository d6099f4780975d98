"""Selective Amnesia: continual learning turned round, with a surrogate learnt in the target's place.

Paper:      Heng and Soh, "Selective Amnesia: A Continual Learning Approach to Forgetting in Deep Generative Models",
            NeurIPS 2023, arXiv 2305.10120, eq. 8
Provenance: written from the paper and from the published behaviour of the program (MIT)

The target's prompts c learn pictures x of a surrogate (the anchor), while pictures x' of what is kept are replayed, and
weights that matter for these are held where they were (elastic weight consolidation):

    L = |f(x_t, c) - e|^2 + gamma |f(x'_t, r) - e|^2 + lambda sum_i F_i (theta_i - theta*_i)^2

F_i is the mean square of the gradient of the replay's loss with respect to theta_i, at theta*, scaled to a mean of 1
(so that lambda does not depend on the size of the network; ours).
"""

from __future__ import annotations

import torch
from torch import Tensor

from excise.errors import SettingError
from excise.families.base import Family
from excise.methods.trained.base import Distilled
from excise.methods.trained.selective_amnesia_config import SelectiveAmnesiaConfig
from excise.training.adapters import Weights, linears
from excise.training.blocks import Batch
from excise.training.loop import Losses, Step
from excise.training.losses import mse
from excise.training.problem import TrainingProblem
from excise.training.sources import Source


class SelectiveAmnesia(Distilled[SelectiveAmnesiaConfig]):
    """The method as the registry knows it."""

    Config = SelectiveAmnesiaConfig

    def targets(self, family: Family, config: SelectiveAmnesiaConfig) -> list[str]:
        return linears(family, config.modules)

    def check(self, problem: TrainingProblem, config: SelectiveAmnesiaConfig) -> None:
        super().check(problem, config)
        if config.retain_on == "latents" and config.fisher_weight:
            raise SettingError(
                "at the start nothing differs from the untouched model, so that retain_on=latents does not tell what "
                "matters; use --set retain_on=pictures, or --set fisher_weight=0."
            )

    def loss(self, batch: Batch, config: SelectiveAmnesiaConfig) -> Tensor:
        return mse(batch.student(batch.concept), batch.truth())

    def step(self, problem: TrainingProblem, config: SelectiveAmnesiaConfig, weights: Weights, source: Source) -> Step:
        if not config.fisher_weight:
            return super().step(problem, config, weights, source)
        start = {name: p.detach().clone() for name, p in weights.parameters.items()}
        held = fisher(weights, source, config.fisher_passes, problem.seed)

        def step(generator: torch.Generator) -> Losses:
            losses = self.losses(source.batch(generator), config)
            moved = [(held[n] * (p - start[n]).square()).sum() for n, p in weights.parameters.items()]
            drift = torch.stack(moved).sum()
            return {**losses, "loss": losses["loss"] + config.fisher_weight * drift, "drift": drift}

        return step


def fisher(weights: Weights, source: Source, passes: int, seed: int) -> dict[str, Tensor]:
    """The diagonal of the Fisher information of what is retained, by parameter, scaled to a mean of 1."""
    total = {name: torch.zeros_like(p) for name, p in weights.parameters.items()}
    for i in range(passes):
        loss = source.batch(torch.Generator().manual_seed(seed * 1_000_003 + i)).retain_loss()
        every = [*weights.parameters.values()]
        for name, gradient in zip(total, torch.autograd.grad(loss, every, materialize_grads=True), strict=True):
            total[name] += gradient.square()
    mean = sum(float(t.sum()) for t in total.values()) / sum(t.numel() for t in total.values())
    return {name: t / mean if mean else t for name, t in total.items()}
