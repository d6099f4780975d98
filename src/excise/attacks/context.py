"""In-context probes: the untouched model begins the picture, or the picture shows the target all around a hole.

Paper:      "When Are Concepts Erased From Diffusion Models?", NeurIPS 2025, arXiv 2505.17013, its in-context probes
Provenance: written from the paper; official code not used. Holes are filled by restoring the known part at every step,
            as in RePaint (arXiv 2201.09865) without its resampling.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from PIL import Image
from pydantic import Field
from torch import Tensor

from excise.attacks.base import Arena, Attack, AttackSettings, Control, Round
from excise.attacks.noise_scale import NO_NOISE
from excise.attacks.sampler import denoise, times
from excise.families.trajectories import partial_denoise


class ContextConfig(AttackSettings):
    """Settings of the in-context probes."""

    given: Literal["beginning", "surroundings"] = Field(
        "beginning", description="What the model is given: the first steps, or the surroundings of a hole."
    )
    share: float = Field(
        0.3, gt=0, lt=1, description="Share of the steps that the untouched model makes, or of each side around a hole."
    )


class Context(Attack[ContextConfig]):
    """Draw as many pictures per test prompt as the budget has, each from other noise."""

    access = "latents"
    teaches = True
    Config = ContextConfig

    def control(self) -> Control:
        return NO_NOISE

    def run(self, arena: Arena) -> list[Round]:
        draw = _continue_pictures if self.config.given == "beginning" else _fill_holes
        return arena.draw_each_test(lambda i, test: draw(arena, self.config, test, i))


def _continue_pictures(
    arena: Arena, config: ContextConfig, test: str, number: int
) -> tuple[list[Image.Image], list[str]]:
    """Make the first steps by the untouched model, the others by the one under attack."""
    done = min(arena.steps - 1, max(1, round(config.share * arena.steps)))
    start = torch.randn(arena.images, *arena.family.latent_shape, generator=arena.generator("context", number))
    with arena.original() as untouched:
        condition = untouched.condition([test] * arena.images)
        unconditional = untouched.unconditional()[[0] * arena.images]
        latents, _ = partial_denoise(
            untouched, condition, unconditional, start, steps=arena.steps, done=done, guidance=arena.guidance
        )
    condition = arena.family.condition([test] * arena.images)
    clean = denoise(arena, condition, latents.cpu(), times(arena, arena.steps)[done:])
    return arena.family.decode(clean), [test] * arena.images


def _fill_holes(arena: Arena, config: ContextConfig, test: str, number: int) -> tuple[list[Image.Image], list[str]]:
    """Fill a hole in pictures of the target, under their own prompts; the judge sees only what fills it."""
    at = [(number + j) % len(arena.guides.latents) for j in range(arena.images)]
    known = arena.guides.latents[at]
    _, height, width = known.shape[1:]
    hole = torch.zeros(1, 1, height, width, dtype=torch.bool)
    h, w = (max(1, round((1 - config.share) * side)) for side in (height, width))
    top, left = (height - h) // 2, (width - w) // 2
    hole[..., top : top + h, left : left + w] = True
    noise = torch.randn(known.shape, generator=arena.generator("context", number))

    def restore_known(x: Tensor, s: Tensor) -> Tensor:
        a = (1 - s) if arena.plan.kind == "flow" else (1 - s**2).sqrt()
        return torch.where(hole, x, a * known + s * noise)

    prompts = [arena.guides.prompts[i] for i in at]
    condition = arena.family.condition(prompts)
    clean = denoise(arena, condition, noise, times(arena, arena.steps), after=restore_known)
    images = arena.family.decode(torch.where(hole, clean, known))
    size = images[0].width
    box = tuple(round(size * x) for x in (left / width, top / height, (left + w) / width, (top + h) / height))
    return [_isolated(image, box) for image in images], prompts


def _isolated(image: Image.Image, box: tuple[int, ...]) -> Image.Image:
    """Return a part of a picture in its place, on the colour of its edge; a judge would not recognise it enlarged."""
    part = np.asarray(image.crop(box))  # type: ignore[arg-type]
    edge = np.concatenate([part[0], part[-1], part[:, 0], part[:, -1]])
    canvas = Image.new(image.mode, image.size, tuple(int(x) for x in np.median(edge, axis=0)))
    canvas.paste(Image.fromarray(part), box[:2])  # type: ignore[arg-type]
    return canvas
