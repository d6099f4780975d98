"""RealEra: the neighbourhood of a concept's words is read as its anchor, and what lies beyond it stays.

Paper:      Liu et al., "RealEra: Semantic-level Concept Erasure via Neighbor-Concept Mining", arXiv 2410.09140
Provenance: written from the paper's abstract; its constants and the sizes below are ours

Stage 1 is UCE's system on the concept. In stage 2, with the untouched model f*, latents x_t that are being denoised
under the concept, its text states e, and unit directions d drawn at random in them,

    near = e + rho |e| d, rho in (0, near],    far = e + rho |e| d, rho in [far, 2 far]

    L = |f(x_t, near) - f*(x_t, a)|^2 + lambda |f(x_t, far) - f*(x_t, far)|^2
"""

from __future__ import annotations

import torch
from torch import Tensor

from excise.errors import SettingError
from excise.families.base import Family
from excise.families.conditions import Condition
from excise.methods.closed_form.uce import UCE
from excise.methods.closed_form.uce_config import UCEConfig
from excise.methods.trained.base import ClosedFormStage, Stepped, with_retention
from excise.methods.trained.realera_config import RealEraConfig
from excise.training.adapters import Weights
from excise.training.loop import Losses, Step
from excise.training.losses import mse
from excise.training.problem import TrainingProblem
from excise.training.sources import Source


class RealEra(Stepped[RealEraConfig]):
    """The method as the registry knows it."""

    Config = RealEraConfig

    def closed_form(self, config: RealEraConfig) -> ClosedFormStage:
        return UCE(), UCEConfig(retain_scale=config.retain_scale, ridge=config.ridge)

    def check(self, problem: TrainingProblem, config: RealEraConfig) -> None:
        super().check(problem, config)
        if config.near > config.far:
            raise SettingError(
                f"the neighbourhood ends at `near` and beyond begins at `far`, and near was {config.near:g} and far "
                f"{config.far:g}; use a `near` of at most `far`."
            )

    def targets(self, family: Family, config: RealEraConfig) -> list[str]:
        return [m.path for m in family.maps(config.modules)]

    def step(self, problem: TrainingProblem, config: RealEraConfig, weights: Weights, source: Source) -> Step:
        family = problem.family

        def step(generator: torch.Generator) -> Losses:
            batch = source.batch(generator)
            own = batch.concept.teacher
            near = moved(own, generator, 0.0, config.near)
            far = moved(own, generator, config.far, 2 * config.far)
            with weights.teacher(), problem.original(), torch.no_grad():
                anchor = family.predict(batch.x_t, batch.t, batch.anchor.teacher)
                beyond = family.predict(batch.x_t, batch.t, far)
            erase = mse(family.predict(batch.x_t, batch.t, near), anchor)
            pinned = mse(family.predict(batch.x_t, batch.t, far), beyond)
            losses = with_retention(batch, erase, config)
            return {**losses, "loss": losses["loss"] + config.beyond_weight * pinned, "beyond": pinned}

        return step


def moved(condition: Condition, generator: torch.Generator, least: float, most: float) -> Condition:
    """Conditions whose token states moved along random directions by `least` to `most` of their own length."""

    def drawn(states: Tensor) -> Tensor:
        noise = torch.randn(states.shape, generator=generator).to(states)
        share = least + (most - least) * torch.rand(len(states), generator=generator).to(states)
        length = states.norm(dim=-1, keepdim=True) * share.view(-1, *(1,) * (states.dim() - 1))
        return states + noise / noise.norm(dim=-1, keepdim=True) * length

    inputs = {name: drawn(t) if t.dim() > 2 else t for name, t in condition.inputs.items()}
    return Condition(inputs, condition.masks)
