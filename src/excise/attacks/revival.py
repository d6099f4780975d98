"""Revival: fine-tune the model on pictures of other things, and see whether the target comes back by itself.

Paper:      resurgence of erased concepts by fine-tuning on unrelated pictures: arXiv 2410.08074
Provenance: written from the paper's idea; official code not used. Steps, rates and the choice of pictures are ours
Pitfall:    this takes no ill will: whoever adapts a model to a style or a product does it. No prompt asks for the
            target, and a picture in which any judge sees it is not learnt from, so that, unlike relearning, what comes
            back was there, as far as the judges see.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from PIL import Image
from pydantic import Field
from torch import Tensor, nn

from excise.attacks.base import BACKWARD_COST, Arena, Attack, AttackError, AttackSettings, Round
from excise.attacks.fine_tuning import Lesson, fine_tuned, refuse_lora
from excise.concepts.concept import TEMPLATES
from excise.concepts.vocabulary import ordinary_names
from excise.families.base import Family
from excise.support.selection import evenly
from excise.training.adapters import Adapter, FullWeights, Weights, choose_maps
from excise.training.pictures import picture_seed

RATES = {"lora": 1e-3, "all": 1e-5}  # learning rates, by what is trained
MOST_NAMES = 40
TRIES = 3  # pictures drawn for each that is wanted


class RevivalConfig(AttackSettings):
    """Settings of revival."""

    train: Literal["lora", "all"] = Field(
        "lora", description="What is trained: a LoRA on all attention of the denoiser, or all its weights."
    )
    drawings: int = Field(40, ge=1, description="Pictures of other things to learn from, by the untouched model.")
    steps: int = Field(200, ge=1, description="Training steps.")
    batch: int = Field(8, ge=1, description="Noised pictures in a step.")
    lr: float | None = Field(
        None, gt=0, description="Learning rate of AdamW; by default 0.001 for a LoRA, 0.00001 for all weights."
    )
    rank: int = Field(8, ge=1, description="Rank of the LoRA.")


class Revival(Attack[RevivalConfig]):
    """min over LoRA or weights  E |f(z_t, t, prompt) - y|^2  on pictures of other things; then draw the tests."""

    access = "weights"
    Config = RevivalConfig

    def passes(self, tests: int) -> int:
        return BACKWARD_COST * self.config.steps * self.config.batch

    def run(self, arena: Arena) -> list[Round]:
        config = self.config
        refuse_lora(arena)
        weights = _WEIGHTS[config.train](arena, config)
        prompts, latents = _pictures(arena, config.drawings)
        rate = RATES[config.train] if config.lr is None else config.lr
        lesson = Lesson(prompts, latents, "fine-tuning", config.steps, config.batch, rate)
        with fine_tuned(arena, weights, lesson, arena.generator("revival", config.train)):
            return arena.draw_tests()


def other_prompts(arena: Arena) -> list[str]:
    """Return prompts that ask for other things than the target.

    They are the guides that the untouched model is known to draw; where it has none, ordinary names of the target's
    kind, or of objects where the target is explicit.
    """
    if arena.guides.others:
        return list(dict.fromkeys(arena.guides.others))
    kind = "object" if arena.concept.kind == "explicit" else arena.concept.kind
    names = arena.others or ordinary_names(kind, [arena.concept])
    return [TEMPLATES[kind][1].format(name) for name in evenly(names, MOST_NAMES)]


def _pictures(arena: Arena, count: int) -> tuple[list[str], Tensor]:
    """Let the untouched model draw other things, without the target; return the prompts and the latents (n, c, h, w).

    In the place of a picture that shows the target another is drawn, at most `TRIES` times.

    Raises:
        AttackError: every picture shows the target, as it is judged.
    """
    known = other_prompts(arena)
    accepted: list[tuple[str, Image.Image]] = []
    drawn = 0

    def say(done: float, total: int) -> None:
        arena.say("drawing other things", done, total)

    with arena.original() as family:
        for _ in range(TRIES):
            at = range(drawn, drawn + count - len(accepted))
            prompts = [known[i % len(known)] for i in at]
            seeds = [picture_seed("revival", arena.seed, i) for i in at]
            images = family.sample(
                prompts, seeds, steps=arena.steps, guidance=arena.guidance, batch=arena.batch, progress=say
            )
            drawn += len(images)
            shown = arena.shows_target(images)
            accepted += [(p, i) for p, i, bad in zip(prompts, images, shown, strict=True) if not bad]
            if len(accepted) == count:
                break
        if not accepted:
            raise AttackError(
                f"all {drawn} pictures of other things show '{arena.concept.name}', as it is judged, so there is "
                "nothing to learn from that leaves it out; name other things with --other."
            )
        latents = family.latents([image for _, image in accepted])
    arena.notes["drawings"], arena.notes["prompts"] = len(accepted), len(known)
    arena.notes["left out"] = drawn - len(accepted)
    return [prompt for prompt, _ in accepted], latents


def _lora(arena: Arena, config: RevivalConfig) -> Weights:
    maps = [m.path for m in choose_maps(arena.family, "attention")]
    return Adapter(arena.family, maps, config.rank, arena.seed)


def _all_weights(arena: Arena, config: RevivalConfig) -> Weights:
    """All linear maps and convolutions of the denoiser.

    Raises:
        AttackError: they are not in single precision.
    """
    paths = _maps(arena.family)
    if any(arena.family.module(path).weight.dtype != torch.float32 for path in paths):
        raise AttackError("all weights are trained in single precision; load the model with --dtype float32.")
    return FullWeights(arena.family, paths)


def _maps(family: Family) -> list[str]:
    """The paths of all linear maps and convolutions of the denoiser."""
    return [path for path, m in family.denoiser.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d))]


_WEIGHTS: dict[str, Callable[[Arena, RevivalConfig], Weights]] = {"lora": _lora, "all": _all_weights}
