"""Noised latents and what a denoiser should predict for them: the one place where latents and timesteps meet.

epsilon, v   x_t = a_t x + s_t e,            target e, or a_t e - s_t x   (arXiv 2202.00512)
flow         x_t = (1 - s) x + s e,          target e - x,   s = t / 1000  (arXiv 2209.03003)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from excise.errors import ModelError


@dataclass(frozen=True)
class Noising:
    """How a scheduler noises: latents (n, c, h, w), times (n,) in the units that the denoiser takes.

    Attributes:
        kind: epsilon, v_prediction or flow.
        levels: number of timesteps.
        alphas: (levels,) cumulative products of the schedule; empty for flow.
        shift: of a flow schedule towards the noisy end; 1 shifts nothing.
    """

    kind: str
    levels: int
    alphas: Tensor
    shift: float = 1.0

    def times(self, *shape: int, generator: torch.Generator) -> Tensor:
        """Draw timesteps of a shape; along the last dimension (n), one in each of n equal slices of the schedule.

        That is uniform with less variance; for a flow, uniform before its shift.
        """
        u = (torch.arange(shape[-1]) + torch.rand(*shape, generator=generator)) / shape[-1]
        if self.kind != "flow":
            return (u * self.levels).long().clamp(max=self.levels - 1)
        u = u.clamp(min=1e-3)
        return self.levels * self.shift * u / (1 + (self.shift - 1) * u)

    def scales(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """(n, 1, 1, 1) each: the factors of the picture and of the noise in the latents at times `t` (n,)."""
        if self.kind == "flow":
            s = (t.float() / self.levels).view(-1, 1, 1, 1)
            return 1 - s, s
        alpha = self.alphas.to(t.device)[t.long()].view(-1, 1, 1, 1)
        return alpha.sqrt(), (1 - alpha).sqrt()

    def add(self, clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """(n, c, h, w): clean latents noised to times `t` (n,)."""
        a, s = self.scales(t)
        return a * clean + s * noise

    def target(self, clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """(n, c, h, w): what the denoiser should predict at times `t` (n,)."""
        if self.kind == "epsilon":
            return noise
        if self.kind == "flow":
            return noise - clean
        a, s = self.scales(t)
        return a * noise - s * clean

    def clean(self, output: Tensor, noised: Tensor, t: Tensor) -> Tensor:
        """(n, c, h, w): the clean latents that a prediction implies, in every parameterisation."""
        a, s = self.scales(t)
        if self.kind == "epsilon":
            return (noised - s * output) / a
        if self.kind == "flow":
            return noised - s * output
        return a * noised - s * output

    def noise(self, output: Tensor, noised: Tensor, t: Tensor) -> Tensor:
        """(n, c, h, w): the noise that a prediction implies, in every parameterisation."""
        if self.kind == "epsilon":
            return output
        a, s = self.scales(t)
        if self.kind == "flow":
            return noised + a * output
        return a * output + s * noised


def noising(scheduler: Any, tokens: int | None = None, mu: float | None = None) -> Noising:
    """How the scheduler of a pipeline noises.

    Args:
        scheduler: of a diffusers pipeline.
        tokens: number of picture tokens that the transformer attends over. A dynamic shift (FLUX) depends on it.
        mu: the logarithm of a dynamic shift, where the pipeline does not leave it to the scheduler's configuration.

    Raises:
        ModelError: it predicts something else, noises in another way (EDM), or its shift needs `tokens`.
    """
    config = scheduler.config
    kind = "flow" if "flow" in type(scheduler).__name__.lower() else str(config.get("prediction_type"))
    if config.get("use_flow_sigmas"):
        kind = "flow"
    if kind == "flow":
        return Noising(kind, config.num_train_timesteps, torch.empty(0), _shift(config, tokens, mu))
    if kind not in ("epsilon", "v_prediction"):
        raise ModelError(f"the scheduler predicts '{kind}'; expected epsilon, v_prediction or a flow.")
    if not hasattr(scheduler, "alphas_cumprod"):
        raise ModelError(
            f"the model's {type(scheduler).__name__} noises in its own way (EDM), in which nothing here trains, "
            "attacks or samples; use a closed form (excise methods), and protocols with the model's own sampler."
        )
    return Noising(kind, config.num_train_timesteps, scheduler.alphas_cumprod.float().cpu())


def _shift(config: Any, tokens: int | None, mu: float | None) -> float:
    """The shift k of a flow schedule, s' = k s / (1 + (k - 1) s).

    A dynamic shift is k = e^mu (or mu, where the scheduler shifts linearly), with mu linear in the number of picture
    tokens: base_shift at base_image_seq_len tokens, max_shift at max_image_seq_len (arXiv 2403.03206, section 5.3.2,
    as FluxPipeline has it). A terminal shift of the sampler's last step is left out.
    """
    if not config.get("use_dynamic_shifting"):
        return float(config.get("shift") or config.get("flow_shift") or 1.0)
    if mu is None and tokens is None:
        raise ModelError(
            "the noise schedule of this model shifts with the picture's size, which is not known here; use the "
            "`noising` of its family."
        )
    if mu is None:
        low, high = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
        base, most = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
        mu = float(base + (most - base) * (tokens - low) / (high - low))
    return mu if config.get("time_shift_type") == "linear" else math.exp(mu)
