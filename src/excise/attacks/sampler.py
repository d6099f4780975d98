"""A first-order sampler whose every step can be tampered with, for epsilon, v and flow, and its inversion.

From the clean latents x0 and the noise e that a prediction implies, the next latents are

    x' = a' x0 + sqrt(s'^2 - sigma^2) e + spread sigma z,    sigma = eta (s'/s) sqrt(s^2 - (a s'/a')^2)

with (a, s) the shares of picture and noise now and (a', s') those of the next step: DDIM (arXiv 2010.02502, eq. 12
and 16) where a^2 + s^2 = 1, and the same posterior for a flow. eta = 0 is the deterministic sampler.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from excise.attacks.base import Arena
from excise.families.base import Condition, join
from excise.families.trajectories import plain_scheduler

After = Callable[[Tensor, Tensor], Tensor]
"""Receives latents and the share of noise in them; what it returns goes on."""


def times(arena: Arena, steps: int) -> Tensor:
    """(steps,) from the noisiest on, as the model's own schedule spaces them."""
    scheduler = plain_scheduler(arena.family)
    scheduler.set_timesteps(steps)
    found: Tensor = scheduler.timesteps.float()
    return found


@torch.no_grad()
def denoise(
    arena: Arena,
    condition: Condition,
    latents: Tensor,
    at: Tensor,
    *,
    guidance: float | None = None,
    eta: Tensor | float = 0.0,
    spread: Tensor | float = 1.0,
    generator: torch.Generator | None = None,
    after: After | None = None,
) -> Tensor:
    """Clean latents from noised ones (B, c, h, w) by the model under attack.

    Args:
        at: the times still to go through, the noisiest first; `latents` stand at the first.
        guidance: of the arena where None. eta, spread: numbers, or (B,) of them.
        generator: of the noise that is put in again. after: called after every step.
    """
    strength = arena.guidance if guidance is None else guidance
    plan, none, x = arena.plan, arena.family.unconditional(), latents
    both = join([none[[0] * len(x)], condition])
    eta, spread = (torch.as_tensor(v, dtype=x.dtype).expand(len(x)).view(-1, 1, 1, 1) for v in (eta, spread))
    for i, t in enumerate(at):
        now = t.expand(len(x))
        # Not on the bill of a search: pictures are counted as such.
        free, asked = arena.family.predict(x.repeat(2, 1, 1, 1), now.repeat(2), both).cpu().chunk(2)
        output = free + strength * (asked - free)
        clean, e = plan.clean(output, x, now), plan.noise(output, x, now)
        if i + 1 == len(at):
            return clean
        (a, s), (a2, s2) = plan.scales(now), plan.scales(at[i + 1].expand(len(x)))
        sigma = eta * (s2 / s) * (s**2 - (a * s2 / a2) ** 2).clamp(min=0).sqrt()
        z = torch.randn(x.shape, generator=generator) if generator is not None else torch.zeros_like(x)
        x = a2 * clean + (s2**2 - sigma**2).clamp(min=0).sqrt() * e + spread * sigma * z
        if after is not None:
            x = after(x, s2)
    return x


@torch.no_grad()
def invert(arena: Arena, condition: Condition, clean: Tensor, at: Tensor) -> Tensor:
    """The noise from which the model would draw these latents under these prompts, without guidance (DDIM backwards).

    Args:
        clean: (B, c, h, w). at: the times of the way there, the noisiest first.
    """
    plan, x = arena.plan, clean
    way = at.flip(0)
    for i, t in enumerate(way):
        now = t.expand(len(x))
        if i == 0:  # from the picture itself to the least noisy time: what the model says is noise goes in
            output = arena.predict(x, now, condition).cpu()
            a, s = plan.scales(now)
            x = a * clean + s * plan.noise(output, x, now)
            continue
        before = way[i - 1].expand(len(x))
        output = arena.predict(x, before, condition).cpu()
        a, s = plan.scales(now)
        x = a * plan.clean(output, x, before) + s * plan.noise(output, x, before)
    return x
