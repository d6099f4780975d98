"""A first-order sampler with a hook after every step, for epsilon, v and flow, and its inversion.

From the clean latents x0 and the noise e that a prediction implies, the next latents are

    x' = a' x0 + sqrt(s'^2 - sigma^2) e + spread sigma z,    sigma = eta (s'/s) sqrt(s^2 - (a s'/a')^2)

with (a, s) the shares of picture and noise now and (a', s') those of the next step: DDIM (arXiv 2010.02502, eq. 12
and 16) where a^2 + s^2 = 1, and the same posterior for a flow. eta = 0 is the deterministic sampler.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from excise.attacks.base import Arena
from excise.families.conditions import Condition
from excise.families.trajectories import guided_prediction, plain_scheduler

After = Callable[[Tensor, Tensor], Tensor]
"""Receives the latents after a step and the share of noise in them; returns the latents to go on with."""


@dataclass(frozen=True)
class AddedNoise:
    """The noise that the sampler adds again at every step; by default none.

    Attributes:
        eta, spread: one number, or (B,) numbers.
        generator: draws the noise; None adds none.
    """

    eta: Tensor | float = 0.0
    spread: Tensor | float = 1.0
    generator: torch.Generator | None = None

    def like(self, x: Tensor) -> Tensor:
        """Return the noise z of a step."""
        return torch.zeros_like(x) if self.generator is None else torch.randn(x.shape, generator=self.generator)


def times(arena: Arena, steps: int) -> Tensor:
    """Return the (steps,) times of a run, the noisiest first, spaced as in the model's own schedule."""
    scheduler = plain_scheduler(arena.family)
    scheduler.set_timesteps(steps)
    timesteps: Tensor = scheduler.timesteps.float()
    return timesteps


@torch.no_grad()
def denoise(
    arena: Arena,
    condition: Condition,
    latents: Tensor,
    at: Tensor,
    *,
    guidance: float | None = None,
    added: AddedNoise = AddedNoise(),
    after: After | None = None,
) -> Tensor:
    """Return clean latents from noised ones (B, c, h, w), by the model under attack.

    Args:
        latents: noised to the first of the times.
        at: the remaining times, the noisiest first.
        guidance: scale of classifier-free guidance; None takes the arena's.
        added: noise that is added again.
        after: called after every step.
    """
    strength = arena.guidance if guidance is None else guidance
    plan, x = arena.plan, latents
    unconditional = arena.family.unconditional()[[0] * len(x)]
    eta, spread = (
        torch.as_tensor(v, dtype=x.dtype).expand(len(x)).view(-1, 1, 1, 1) for v in (added.eta, added.spread)
    )
    for i, t in enumerate(at):
        now = t.expand(len(x))
        # Not added to the cost of a search: its pictures are counted instead.
        output = guided_prediction(arena.family, x, now, unconditional, condition, strength, in_one_batch=True).cpu()
        clean, e = plan.clean(output, x, now), plan.noise(output, x, now)
        if i + 1 == len(at):
            return clean
        (a, s), (a2, s2) = plan.scales(now), plan.scales(at[i + 1].expand(len(x)))
        sigma = eta * (s2 / s) * (s**2 - (a * s2 / a2) ** 2).clamp(min=0).sqrt()
        x = a2 * clean + (s2**2 - sigma**2).clamp(min=0).sqrt() * e + spread * sigma * added.like(x)
        if after is not None:
            x = after(x, s2)
    return x


@torch.no_grad()
def invert(arena: Arena, condition: Condition, clean: Tensor, at: Tensor) -> Tensor:
    """Return the noise from which the model would draw these latents under these prompts, without guidance.

    It is DDIM backwards: the first prediction, at the least noisy time, is of the picture itself.

    Args:
        clean: (B, c, h, w) latents of the pictures.
        at: the times of the run, the noisiest first.
    """
    plan, x = arena.plan, clean
    ascending = at.flip(0)
    for i, t in enumerate(ascending):
        now = t.expand(len(x))
        before = now if i == 0 else ascending[i - 1].expand(len(x))
        output = arena.predict(x, before, condition).cpu()
        a, s = plan.scales(now)
        x = a * (x if i == 0 else plan.clean(output, x, before)) + s * plan.noise(output, x, before)
    return x
