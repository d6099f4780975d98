"""Partly denoised latents, and the timestep of the next step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from torch import Tensor

from excise.families.base import Family
from excise.families.conditions import Condition, join


def partial_denoise(
    family: Family,
    condition: Condition,
    unconditional: Condition,
    noise: Tensor,
    *,
    steps: int,
    done: int,
    guidance: float,
) -> tuple[Tensor, Tensor]:
    """Denoise `noise` (n, c, h, w) for `done` of `steps` steps with the model as it is now.

    Args:
        condition, unconditional: n rows each.
        guidance: scale of classifier-free guidance.

    Returns:
        The latents (n, c, h, w), and the timestep (n,) of step `done`, which comes next. With `done` = 0 they are the
        noise itself and the noisiest timestep, with `done` = `steps` those of a picture and 0.
    """
    (stop,) = denoise_along(family, condition, unconditional, noise, steps=steps, stops=[done], guidance=guidance)
    return stop


@torch.no_grad()
def denoise_along(
    family: Family,
    condition: Condition,
    unconditional: Condition,
    noise: Tensor,
    *,
    steps: int,
    stops: Sequence[int],
    guidance: float,
) -> list[tuple[Tensor, Tensor]]:
    """What `partial_denoise` returns after each of several numbers of steps, in ascending order, on one way."""
    scheduler: Any = plain_scheduler(family)
    scheduler.set_timesteps(steps)
    x, where = noise, family.device
    x = x.to(where) * getattr(scheduler, "init_noise_sigma", 1.0)
    passed = []
    for done, t in enumerate([*scheduler.timesteps, torch.zeros(())][: stops[-1] + 1]):
        if done in stops:
            passed.append((x, t.to(where).expand(len(x))))
        if done < stops[-1]:
            output = guided_prediction(family, x, t.to(where).expand(len(x)), unconditional, condition, guidance)
            x = scheduler.step(output, t, x).prev_sample
    return passed


def guided_prediction(
    family: Family,
    latents: Tensor,
    t: Tensor,
    unconditional: Condition,
    condition: Condition,
    guidance: float,
    *,
    in_one_batch: bool = False,
) -> Tensor:
    """Return the denoiser's prediction with classifier-free guidance (arXiv 2207.12598).

        f(z_t, t, "") + guidance (f(z_t, t, c) - f(z_t, t, ""))

    Args:
        latents: (n, c, h, w).
        t: (n,) their times.
        unconditional, condition: n rows each.
        guidance: the scale; 1 is the plain conditional prediction.
        in_one_batch: make both predictions in one pass over 2n latents, which may change their last bits.
    """
    if in_one_batch:
        both = family.predict(latents.repeat(2, 1, 1, 1), t.repeat(2), join([unconditional, condition]))
        free, conditional = both.chunk(2)
    else:
        free, conditional = (family.predict(latents, t, c) for c in (unconditional, condition))
    return free + guidance * (conditional - free)


def plain_scheduler(family: Family) -> Any:
    """A first-order, memoryless diffusers scheduler (DDIM, or Euler for a flow) on the model's noise schedule."""
    plan, config = family.noising, family.pipe.scheduler.config
    if plan.kind == "flow":
        return FlowMatchEulerDiscreteScheduler(num_train_timesteps=plan.levels, shift=plan.shift)
    return DDIMScheduler.from_config(config, clip_sample=False, set_alpha_to_one=False)
