"""Noised latents and what a denoiser should say of them: the one place where latents and timesteps meet.

epsilon, v   x_t = a_t x + s_t e,            target e, or a_t e - s_t x   (arXiv 2202.00512)
flow         x_t = (1 - s) x + s e,          target e - x,   s = t / 1000  (arXiv 2209.03003)
"""

from __future__ import annotations

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
        levels: number of timesteps. alphas: (levels,) cumulative products of the schedule; empty for flow.
        shift: of a flow schedule towards the noisy end.
    """

    kind: str
    levels: int
    alphas: Tensor
    shift: float = 1.0

    def times(self, *shape: int, generator: torch.Generator) -> Tensor:
        """Timesteps of a shape, in the last dimension (n) one in each of n equal slices of the schedule.

        That is uniform, with less variance; for a flow uniform before its shift.
        """
        u = (torch.arange(shape[-1]) + torch.rand(*shape, generator=generator)) / shape[-1]
        if self.kind != "flow":
            return (u * self.levels).long().clamp(max=self.levels - 1)
        u = u.clamp(min=1e-3)
        return self.levels * self.shift * u / (1 + (self.shift - 1) * u)

    def scales(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """(n, 1, 1, 1) how much of the picture and of the noise is in the latents at `t`."""
        if self.kind == "flow":
            s = (t.float() / self.levels).view(-1, 1, 1, 1)
            return 1 - s, s
        alpha = self.alphas.to(t.device)[t.long()].view(-1, 1, 1, 1)
        return alpha.sqrt(), (1 - alpha).sqrt()

    def add(self, clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """The latents at time `t`."""
        a, s = self.scales(t)
        return a * clean + s * noise

    def target(self, clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """What the denoiser is to predict there."""
        if self.kind == "epsilon":
            return noise
        if self.kind == "flow":
            return noise - clean
        a, s = self.scales(t)
        return a * noise - s * clean

    def clean(self, output: Tensor, noised: Tensor, t: Tensor) -> Tensor:
        """The clean latents that a prediction implies, whatever the parameterisation."""
        a, s = self.scales(t)
        if self.kind == "epsilon":
            return (noised - s * output) / a
        if self.kind == "flow":
            return noised - s * output
        return a * noised - s * output

    def noise(self, output: Tensor, noised: Tensor, t: Tensor) -> Tensor:
        """The noise that a prediction implies, whatever the parameterisation."""
        if self.kind == "epsilon":
            return output
        a, s = self.scales(t)
        if self.kind == "flow":
            return noised + a * output
        return a * output + s * noised


def noising(scheduler: Any) -> Noising:
    """How the scheduler of a pipeline noises.

    Raises:
        ModelError: it predicts something else, or noises in another way (EDM).
    """
    config = scheduler.config
    kind = "flow" if "flow" in type(scheduler).__name__.lower() else str(config.get("prediction_type"))
    if config.get("use_flow_sigmas"):
        kind = "flow"
    if kind == "flow":
        shift = float(config.get("shift") or config.get("flow_shift") or 1.0)
        return Noising(kind, config.num_train_timesteps, torch.empty(0), shift)
    if kind not in ("epsilon", "v_prediction"):
        raise ModelError(f"the scheduler predicts '{kind}'; expected epsilon, v_prediction or a flow.")
    if not hasattr(scheduler, "alphas_cumprod"):
        raise ModelError(
            f"the model's {type(scheduler).__name__} noises in its own way (EDM), in which nothing here trains, "
            "attacks or samples; use a closed form (excise methods), and protocols with the model's own sampler."
        )
    return Noising(kind, config.num_train_timesteps, scheduler.alphas_cumprod.float().cpu())
