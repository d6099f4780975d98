"""The noise probe: turn the sampler's noise up, so that it leaves the trajectories that erasure has closed.

Paper:      "When Are Concepts Erased From Diffusion Models?", NeurIPS 2025, arXiv 2505.17013, its noise-based probe
Provenance: written from the paper; official code not used
"""

from __future__ import annotations

import torch
from PIL import Image
from pydantic import Field

from excise.attacks.base import Arena, Attack, AttackSettings, Control, Round
from excise.attacks.sampler import AddedNoise, denoise, times

NO_NOISE = Control("noise", {"eta": (0.0,), "spread": (1.0,)})  # the same sampler without any noise


class NoiseScaleConfig(AttackSettings):
    """Settings of the noise probe."""

    eta: tuple[float, ...] = Field((1.0, 1.17, 1.34, 1.51, 1.68, 1.85), description="Shares of noise added again.")
    spread: tuple[float, ...] = Field((1.0, 1.02, 1.03, 1.04), description="Scales of that noise.")


class NoiseScale(Attack[NoiseScaleConfig]):
    """Draw with every pair of eta and spread in turn, as many as the budget has pictures."""

    access = "latents"
    Config = NoiseScaleConfig

    def control(self) -> Control:
        return NO_NOISE

    def run(self, arena: Arena) -> list[Round]:
        grid = [(eta, spread) for spread in self.config.spread for eta in self.config.eta]
        at = times(arena, arena.steps)

        def draw(i: int, test: str) -> tuple[list[Image.Image], list[str]]:
            pairs = torch.tensor([grid[(i * arena.images + j) % len(grid)] for j in range(arena.images)])
            generator = arena.generator("noise", i)
            start = torch.randn(arena.images, *arena.family.latent_shape, generator=generator)
            condition = arena.family.condition([test] * arena.images)
            eta, spread = pairs.unbind(dim=1)
            clean = denoise(arena, condition, start, at, added=AddedNoise(eta, spread, generator))
            return arena.family.decode(clean), [test] * arena.images

        return arena.draw_each_test(draw)
