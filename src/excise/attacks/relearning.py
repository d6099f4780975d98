"""Relearning: a small LoRA on a handful of pictures, of the target or of anything else; how soon is it back?

Papers:     relearning from a few pictures: arXiv 2510.03263; resurgence from unrelated ones: arXiv 2410.08074
Provenance: written from the papers; official code not used
Pitfall:    pictures of the target can teach it afresh. Only the gap to a model that never saw it tells what was left.
"""

from __future__ import annotations

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from pydantic import Field

from excise.attacks.base import BACK, SEEDS, Access, Arena, AttackError, Control, Round, Settings
from excise.training.adapters import Adapter, choose_maps
from excise.training.run import attention_backend


class RelearningConfig(Settings):
    """Settings of relearning."""

    pictures: int = Field(5, ge=1, description="Pictures that are learnt from.")
    unrelated: bool = Field(False, description="Of other things, not of the target.")
    steps: int = Field(60, ge=1, description="Steps of training.")
    batch: int = Field(8, ge=1, description="Noised pictures in a step.")
    lr: float = Field(1e-3, gt=0, description="Learning rate of AdamW.")
    rank: int = Field(4, ge=1, description="Rank of the LoRA, on all of cross-attention.")


class Relearning:
    """The attack as the registry knows it."""

    access: Access = "weights"
    teaches = True
    Config = RelearningConfig

    @staticmethod
    def control(config: RelearningConfig) -> Control:
        """What does the same without it."""
        return SEEDS

    @staticmethod
    def passes(config: RelearningConfig, tests: int) -> int:
        """Denoiser passes beside those of drawing."""
        return BACK * config.steps * config.batch

    @staticmethod
    def attack(arena: Arena, config: RelearningConfig) -> list[Round]:
        """min over the LoRA  E |f(z_t, t, prompt) - y|^2, then the test prompts with it in force.

        Raises:
            AttackError: there are no pictures to learn from, or the model ships a LoRA of its own.
        """
        guides = arena.guides
        prompts, latents = (
            (guides.others, guides.other_latents) if config.unrelated else (guides.prompts, guides.latents)
        )
        if not prompts:
            raise AttackError("no pictures of other things are at hand; name some with --other.")
        if any(isinstance(m, BaseTunerLayer) for m in arena.family.denoiser.modules()):
            raise AttackError("the model ships a LoRA, which training another would switch off; fuse it first.")
        count = min(config.pictures, len(prompts))
        arena.notes["pictures"] = count
        condition = arena.family.condition(prompts[:count])
        generator = arena.generator("relearning", config.pictures, config.unrelated)
        maps = [m.path for m in choose_maps(arena.family, "cross", None)]
        with Adapter(arena.family, maps, config.rank, arena.seed) as adapter:
            optimiser = torch.optim.AdamW(adapter.parameters.values(), lr=config.lr)
            with attention_backend(arena.family):
                for step in range(config.steps):
                    at = torch.randint(count, (config.batch,), generator=generator)
                    clean = latents[at]
                    noise = torch.randn(clean.shape, generator=generator)
                    t = arena.plan.times(config.batch, generator=generator)
                    loss = arena.errors(clean, noise, t, condition[at]).mean()
                    arena.descend(optimiser, loss)
                    arena.say("relearning", step + 1, config.steps)
            return arena.words([[test] * arena.images for test in arena.tests])
