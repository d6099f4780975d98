"""In-context probes: the picture is begun by the untouched model, or shows the target all around a hole.

Paper:      "When Are Concepts Erased From Diffusion Models?", NeurIPS 2025, arXiv 2505.17013, its in-context probes
Provenance: written from the paper; official code not used. Holes are filled by keeping the known part at every step, as
            in RePaint (arXiv 2201.09865) without its returns.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from PIL import Image
from pydantic import Field
from torch import Tensor

from excise.attacks.base import Access, Arena, Control, Round, Settings
from excise.attacks.noise_scale import PLAIN
from excise.attacks.sampler import denoise, times
from excise.families.trajectories import partial_denoise


class ContextConfig(Settings):
    """Settings of the in-context probes."""

    given: Literal["beginning", "surroundings"] = Field(
        "beginning", description="What comes from outside: the first steps, or all around a hole."
    )
    share: float = Field(
        0.3, gt=0, lt=1, description="Of the steps that the untouched model makes, or of each side that is kept."
    )


class Context:
    """The attack as the registry knows it."""

    access: Access = "latents"
    teaches = True
    Config = ContextConfig

    @staticmethod
    def control(config: ContextConfig) -> Control:
        """What does the same without it."""
        return PLAIN

    @staticmethod
    def passes(config: ContextConfig, tests: int) -> int:
        """Denoiser passes beside those of drawing."""
        return 0

    @staticmethod
    def attack(arena: Arena, config: ContextConfig) -> list[Round]:
        """As many pictures a test prompt as the budget has, each from other noise."""
        draw = _begun if config.given == "beginning" else _filled
        return arena.by_test(lambda i, test: draw(arena, config, test, i))


def _begun(arena: Arena, config: ContextConfig, test: str, which: int) -> tuple[list[Image.Image], list[str]]:
    """The first steps by the untouched model, the others by the one under attack."""
    done = min(arena.steps - 1, max(1, round(config.share * arena.steps)))
    start = torch.randn(arena.images, *arena.family.latent_shape, generator=arena.generator("context", which))
    with arena.original() as untouched:
        asked = untouched.condition([test] * arena.images)
        none = untouched.unconditional()[[0] * arena.images]
        begun, _ = partial_denoise(untouched, asked, none, start, steps=arena.steps, done=done, guidance=arena.guidance)
    condition = arena.family.condition([test] * arena.images)
    clean = denoise(arena, condition, begun.cpu(), times(arena, arena.steps)[done:])
    return arena.family.decode(clean), [test] * arena.images


def _filled(arena: Arena, config: ContextConfig, test: str, which: int) -> tuple[list[Image.Image], list[str]]:
    """A hole in pictures of the target, under their own prompts; what fills it is looked at alone."""
    at = [(which + j) % len(arena.guides.latents) for j in range(arena.images)]
    known = arena.guides.latents[at]
    _, height, width = known.shape[1:]
    hole = torch.zeros(1, 1, height, width, dtype=torch.bool)
    h, w = (max(1, round((1 - config.share) * side)) for side in (height, width))
    top, left = (height - h) // 2, (width - w) // 2
    hole[..., top : top + h, left : left + w] = True
    generator = arena.generator("context", which)
    noise = torch.randn(known.shape, generator=generator)
    way = times(arena, arena.steps)

    def keep(x: Tensor, s: Tensor) -> Tensor:
        a = (1 - s) if arena.plan.kind == "flow" else (1 - s**2).sqrt()
        return torch.where(hole, x, a * known + s * noise)

    prompts = [arena.guides.prompts[i] for i in at]
    clean = denoise(arena, arena.family.condition(prompts), noise, way, after=keep)
    whole = arena.family.decode(torch.where(hole, clean, known))
    size = whole[0].width
    box = tuple(round(size * x) for x in (left / width, top / height, (left + w) / width, (top + h) / height))
    return [_alone(image, box) for image in whole], prompts


def _alone(image: Image.Image, box: tuple[int, ...]) -> Image.Image:
    """A part of a picture at its own scale, in the colour of its edge: enlarged, a judge would not know it."""
    part = np.asarray(image.crop(box))  # type: ignore[arg-type]
    edge = np.concatenate([part[0], part[-1], part[:, 0], part[:, -1]])
    found = Image.new(image.mode, image.size, tuple(int(x) for x in np.median(edge, axis=0)))
    found.paste(Image.fromarray(part), box[:2])  # type: ignore[arg-type]
    return found
