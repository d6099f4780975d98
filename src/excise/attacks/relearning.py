"""Relearning: train a small LoRA on a handful of pictures, of the target or of anything else.

Papers:     relearning from a few pictures: arXiv 2510.03263; resurgence from unrelated ones: arXiv 2410.08074
Provenance: written from the papers; official code not used
Pitfall:    pictures of the target can teach it afresh. Only the gap to a model that never saw it tells what remained.
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from excise.attacks.base import BACKWARD_COST, Arena, Attack, AttackError, AttackSettings, Round
from excise.attacks.fine_tuning import Lesson, fine_tuned, refuse_lora
from excise.training.adapters import Adapter, choose_maps


class RelearningConfig(AttackSettings):
    """Settings of relearning."""

    pictures: int = Field(5, ge=1, description="Number of pictures to learn from.")
    unrelated: bool = Field(False, description="Learn from pictures of other things, not of the target.")
    steps: int = Field(60, ge=1, description="Training steps.")
    batch: int = Field(8, ge=1, description="Noised pictures in a step.")
    lr: float = Field(1e-3, gt=0, description="Learning rate of AdamW.")
    rank: int = Field(4, ge=1, description="Rank of the LoRA, on all of cross-attention.")


class Relearning(Attack[RelearningConfig]):
    """min over the LoRA  E |f(z_t, t, prompt) - y|^2, then draw the test prompts with it in force."""

    access = "weights"
    teaches = True
    Config = RelearningConfig

    def passes(self, tests: int) -> int:
        return BACKWARD_COST * self.config.steps * self.config.batch

    def run(self, arena: Arena) -> list[Round]:
        config = self.config
        prompts, latents = _pictures(arena, config)
        generator = arena.generator("relearning", config.pictures, config.unrelated)
        maps = [m.path for m in choose_maps(arena.family, "cross", None)]
        lesson = Lesson(prompts, latents, "relearning", config.steps, config.batch, config.lr)
        with fine_tuned(arena, Adapter(arena.family, maps, config.rank, arena.seed), lesson, generator):
            return arena.draw_tests()


def _pictures(arena: Arena, config: RelearningConfig) -> tuple[list[str], Tensor]:
    """Return the prompts and the latents (n, c, h, w) to learn from.

    Raises:
        AttackError: there are none, or the model ships a LoRA of its own.
    """
    guides = arena.guides
    prompts, latents = (guides.others, guides.other_latents) if config.unrelated else (guides.prompts, guides.latents)
    if not prompts:
        raise AttackError("there are no pictures of other things to learn from; name some with --other.")
    refuse_lora(arena)
    count = min(config.pictures, len(prompts))
    arena.notes["pictures"] = count
    return prompts[:count], latents[:count]
