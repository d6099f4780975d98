"""Train the denoiser of a built-in model of any family, by regression of its prediction on noised latents."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from excise.canvas.data import Pool, caption
from excise.canvas.loop import Plan, Session, train
from excise.families.conditions import Condition, join
from excise.families.noising import Noising
from excise.families.pipeline import PipelineFamily
from excise.support.precision import fastest

DROP_PROMPT = 0.1  # share of prompts replaced by the empty one, for classifier-free guidance
SNR_CAP = 5.0  # min-SNR weighting, arXiv 2303.09556: steps with little noise count less


class Conditions:
    """Conditions of prompts, each distinct prompt encoded once; None stands for the unconditional one."""

    def __init__(self, family: PipelineFamily) -> None:
        self.family = family
        self._encoded: dict[str | None, Condition] = {}

    @torch.no_grad()
    def __call__(self, prompts: list[str | None]) -> Condition:
        new = [p for p in dict.fromkeys(prompts) if p is not None and p not in self._encoded]
        if None not in self._encoded:
            self._add([None], self.family.unconditional())
        if new:
            self._add(new, self.family.condition(new))
        return join([self._encoded[p] for p in prompts]).to(self.family.device, torch.float32)

    def _add(self, prompts: list[str] | list[None], rows: Condition) -> None:
        half = rows.to(self.family.device, torch.float16)
        self._encoded.update((p, half[[i]]) for i, p in enumerate(prompts))


def train_denoiser(
    family: PipelineFamily,
    pool: Pool,
    latents: Tensor,
    session: Session,
    steps: int,
    lr: float,
    batch: int,
    orthogonal: str = "",
) -> float:
    """Train the denoiser of a family in place.

    Args:
        pool: images with their cells, for captions.
        latents: (N, c, h, w), scaled, one an image of the pool.
        session: where and how to train.
        steps: optimiser steps in total.
        lr: peak learning rate.
        batch: images in a step.
        orthogonal: pattern of names of parameters, as `Plan` takes it.

    Returns:
        Seconds spent, earlier runs included.
    """
    device = session.device
    network: nn.Module = family.denoiser.to(device, memory_format=torch.channels_last)
    network.requires_grad_(True)
    noise_plan, conditions = family.noising, Conditions(family)

    def loss_of(rng: np.random.Generator, generator: torch.Generator) -> Tensor:
        chosen = rng.integers(len(pool.cells), size=batch)
        prompts = [None if rng.random() < DROP_PROMPT else caption(pool.cells[c], rng).text for c in chosen]
        clean = latents[torch.from_numpy(pool.pick(chosen, rng))].float()
        noise = torch.randn(clean.shape, generator=generator)
        t = noise_plan.times(batch, generator=generator)
        noised = noise_plan.add(clean, noise, t).to(device, memory_format=torch.channels_last)
        condition = conditions(prompts)
        with fastest(device), sdpa_kernel(SDPBackend.MATH):  # fastest on so few tokens
            guess = family.predict(noised, t, condition)
        error = (guess - noise_plan.target(clean, noise, t).to(device)).square().mean(dim=(1, 2, 3))
        return (_weight(noise_plan, t).to(device) * error).mean()

    plan = Plan("denoiser", steps, lr=lr, ema=0.999, every=100, orthogonal=orthogonal)
    return train(network, loss_of, plan, session.work, session.seed, session.report)


def _weight(plan: Noising, t: Tensor) -> Tensor:
    """Return loss weights (n,): min(SNR, cap) / SNR for noise prediction, 1 for v and flow."""
    if plan.kind != "epsilon":
        return torch.ones(len(t))
    a, s = (x.flatten() for x in plan.scales(t))
    return (SNR_CAP * (s / a).square()).clamp(max=1)
