"""The noise probe: the sampler's own noise turned up, so that it leaves the path that erasure closed.

Paper:      "When Are Concepts Erased From Diffusion Models?", NeurIPS 2025, arXiv 2505.17013, its noise-based probe
Provenance: written from the paper; official code not used
"""

from __future__ import annotations

import torch
from PIL import Image
from pydantic import Field

from excise.attacks.base import Access, Arena, Control, Round, Settings
from excise.attacks.sampler import denoise, times

PLAIN: Control = ("noise", {"eta": (0.0,), "spread": (1.0,)})  # the same sampler without any noise


class NoiseScaleConfig(Settings):
    """Settings of the noise probe."""

    eta: tuple[float, ...] = Field((1.0, 1.17, 1.34, 1.51, 1.68, 1.85), description="Shares of noise put in again.")
    spread: tuple[float, ...] = Field((1.0, 1.02, 1.03, 1.04), description="Scales of that noise.")


class NoiseScale:
    """The attack as the registry knows it."""

    access: Access = "latents"
    teaches = False
    Config = NoiseScaleConfig

    @staticmethod
    def control(config: NoiseScaleConfig) -> Control:
        """What does the same without it."""
        return PLAIN

    @staticmethod
    def passes(config: NoiseScaleConfig, tests: int) -> int:
        """Denoiser passes beside those of drawing."""
        return 0

    @staticmethod
    def attack(arena: Arena, config: NoiseScaleConfig) -> list[Round]:
        """Each pair of both in turn, as many as the budget has pictures."""
        grid = [(e, s) for s in config.spread for e in config.eta]
        at = times(arena, arena.steps)

        def draw(i: int, test: str) -> tuple[list[Image.Image], list[str]]:
            chosen = torch.tensor([grid[(i * arena.images + j) % len(grid)] for j in range(arena.images)])
            generator = arena.generator("noise", i)
            start = torch.randn(arena.images, *arena.family.latent_shape, generator=generator)
            condition = arena.family.condition([test] * arena.images)
            eta, spread = chosen.unbind(dim=1)
            clean = denoise(arena, condition, start, at, eta=eta, spread=spread, generator=generator)
            return arena.family.decode(clean), [test] * arena.images

        return arena.by_test(draw)
