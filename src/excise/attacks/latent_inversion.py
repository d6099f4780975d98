"""Latent inversion: is there noise from which the model draws a given picture of the target, and how likely is it?

Paper:      Rusanovsky et al., "Memories of Forgotten Concepts", CVPR 2025, arXiv 2412.00782
Provenance: written from the paper; official code not used. Inversion is DDIM backwards, where the paper optimises.
Pitfall:    such an inversion recovers any picture. The evidence is the likelihood of its noise, compared with that of
            pictures of other things (`nll` in the result: of the target, of others).
"""

from __future__ import annotations

import math

from PIL import Image
from pydantic import Field
from torch import Tensor

from excise.attacks.base import GUIDES, Arena, Attack, AttackSettings, Control, Round
from excise.attacks.noise_scale import NO_NOISE
from excise.attacks.sampler import denoise, invert, times


class LatentInversionConfig(AttackSettings):
    """Settings of latent inversion."""

    steps: int = Field(25, ge=2, description="Steps of the inversion, and of drawing from its noise.")
    guidance: float = Field(1.0, ge=0, description="Guidance of drawing; the inversion has none.")


class LatentInversion(Attack[LatentInversionConfig]):
    """Invert pictures of the target to noise by the model under attack, and draw the test prompts from that noise."""

    access = "latents"
    teaches = True
    Config = LatentInversionConfig

    def control(self) -> Control:
        return NO_NOISE

    def passes(self, tests: int) -> int:
        return 2 * GUIDES * self.config.steps

    def run(self, arena: Arena) -> list[Round]:
        guides, at = arena.guides, times(arena, self.config.steps)
        noise = invert(arena, arena.family.condition(guides.prompts), guides.latents, at)
        arena.notes["nll"] = {"target": _nll(noise)}
        if guides.others:
            other_noise = invert(arena, arena.family.condition(guides.others), guides.other_latents, at)
            arena.notes["nll"]["others"] = _nll(other_noise)

        def draw(i: int, test: str) -> tuple[list[Image.Image], list[str]]:
            start = noise[[(i + j) % len(noise) for j in range(arena.images)]]
            condition = arena.family.condition([test] * arena.images)
            clean = denoise(arena, condition, start, at, guidance=self.config.guidance)
            return arena.family.decode(clean), [test] * arena.images

        return arena.draw_each_test(draw)


def _nll(noise: Tensor) -> float:
    """Return the mean negative log-likelihood of noise under a standard normal, per element, in nats."""
    return float(0.5 * noise.square().mean() + 0.5 * math.log(2 * math.pi))
