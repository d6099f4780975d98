"""Fine-tuning as an attack: weights are trained on pictures with their prompts, and are in force inside a block."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor

from excise.attacks.base import Arena, AttackError
from excise.training.adapters import Weights
from excise.training.run import attention_backend


@dataclass(frozen=True)
class Lesson:
    """What is learnt, and how.

    Attributes:
        prompts: n prompts. latents: (n, c, h, w) latents of their pictures.
        name: of the attack, in the progress.
        steps, batch, lr: training steps, noised pictures in a step, learning rate of AdamW.
    """

    prompts: Sequence[str]
    latents: Tensor
    name: str
    steps: int
    batch: int
    lr: float


def refuse_lora(arena: Arena) -> None:
    """Refuse a model that ships a LoRA of its own.

    Raises:
        AttackError: it does.
    """
    if any(isinstance(m, BaseTunerLayer) for m in arena.family.denoiser.modules()):
        raise AttackError("the model ships a LoRA, which training another would switch off; fuse it first.")


@contextmanager
def fine_tuned(arena: Arena, weights: Weights, lesson: Lesson, generator: torch.Generator) -> Iterator[None]:
    """min over the weights  E |f(z_t, t, prompt) - y|^2; inside the block they are in force.

    Args:
        weights: what is trained; put in place here.
        generator: of pictures, noise and noise levels.
    """
    condition = arena.family.condition(list(lesson.prompts))
    with weights as trained:
        optimiser = torch.optim.AdamW(trained.parameters.values(), lr=lesson.lr)
        with attention_backend(arena.family):
            for step in range(lesson.steps):
                at = torch.randint(len(lesson.prompts), (lesson.batch,), generator=generator)
                clean = lesson.latents[at]
                noise = torch.randn(clean.shape, generator=generator)
                t = arena.plan.times(lesson.batch, generator=generator)
                # What the text's half of a last block makes of the text, no picture depends on.
                arena.descend(optimiser, arena.errors(clean, noise, t, condition[at]).mean(), some_idle=True)
                arena.say(lesson.name, step + 1, lesson.steps)
        yield
