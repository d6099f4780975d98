"""Latent inversion: is there noise from which the model draws a real picture of the target, and how likely is it?

Paper:      Rusanovsky et al., "Memories of Forgotten Concepts", CVPR 2025, arXiv 2412.00782
Provenance: written from the paper; official code not used. Inversion is DDIM backwards, where the paper optimises.
Pitfall:    such an inversion brings back any picture. The evidence is in how likely its noise is beside that of
            pictures of other things (`nll` in the result: of the target, of others).
"""

from __future__ import annotations

import math

from PIL import Image
from pydantic import Field
from torch import Tensor

from excise.attacks.base import GUIDES, Access, Arena, Control, Round, Settings
from excise.attacks.noise_scale import PLAIN
from excise.attacks.sampler import denoise, invert, times


class LatentInversionConfig(Settings):
    """Settings of latent inversion."""

    steps: int = Field(25, ge=2, description="Of the way to noise, and of the way back.")
    guidance: float = Field(1.0, ge=0, description="Of the way back; the way there has none.")


class LatentInversion:
    """The attack as the registry knows it."""

    access: Access = "latents"
    teaches = True
    Config = LatentInversionConfig

    @staticmethod
    def control(config: LatentInversionConfig) -> Control:
        """What does the same without it."""
        return PLAIN

    @staticmethod
    def passes(config: LatentInversionConfig, tests: int) -> int:
        """Denoiser passes beside those of drawing."""
        return 2 * GUIDES * config.steps

    @staticmethod
    def attack(arena: Arena, config: LatentInversionConfig) -> list[Round]:
        """From a guide's picture to its noise by the model under attack; test prompts are drawn from there."""
        guides, at = arena.guides, times(arena, config.steps)
        found = invert(arena, arena.family.condition(guides.prompts), guides.latents, at)
        arena.notes["nll"] = {"target": _nll(found)}
        if guides.others:
            others = invert(arena, arena.family.condition(guides.others), guides.other_latents, at)
            arena.notes["nll"]["others"] = _nll(others)

        def draw(i: int, test: str) -> tuple[list[Image.Image], list[str]]:
            start = found[[(i + j) % len(found) for j in range(arena.images)]]
            condition = arena.family.condition([test] * arena.images)
            clean = denoise(arena, condition, start, at, guidance=config.guidance)
            return arena.family.decode(clean), [test] * arena.images

        return arena.by_test(draw)


def _nll(noise: Tensor) -> float:
    """Mean negative log-likelihood of noise under a standard normal, per element, in nats."""
    return float(0.5 * noise.square().mean() + 0.5 * math.log(2 * math.pi))
