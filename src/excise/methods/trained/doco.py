"""DoCo: what the target's prompt gives cannot be told from what the anchor's gives, as distributions.

Paper:      Wu et al., "Unlearning Concepts in Diffusion Model via Concept Domain Correction and Concept Preserving
            Gradient", AAAI 2025, arXiv 2405.15304
Provenance: written from the paper's description and from the published behaviour of the program; no code of it is used

On noised pictures x_t of the anchor a, a discriminator D of patches sees the clean latents x0 that predictions imply:

    D:      min  BCE(D(x0 of f*(x_t, a)), 0) + BCE(D(x0 of f(x_t, c)), 1)
    model:  min  BCE(D(x0 of f(x_t, c)), 0),    its gradient freed of what is against the retain loss's (`combined`)

The discriminator is trained alone at first. The program projects each tensor by itself, without the length of the
retain gradient, which it never applies: the preset `official` applies next to nothing of it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits as bce

from excise.families.base import Family
from excise.methods.trained.base import Stepped, with_retention
from excise.methods.trained.doco_config import DoCoConfig
from excise.training.adapters import Weights
from excise.training.blocks import Batch
from excise.training.loop import Losses, Step
from excise.training.problem import TrainingProblem
from excise.training.sources import Source


class DoCo(Stepped[DoCoConfig]):
    """The method as the registry knows it."""

    Config = DoCoConfig

    def targets(self, family: Family, config: DoCoConfig) -> list[str]:
        return [m.path for m in family.maps(config.modules)]

    def step(self, problem: TrainingProblem, config: DoCoConfig, weights: Weights, source: Source) -> Step:
        correction = Correction(weights, source, config, problem.seed)
        for i in range(config.warmup):
            correction.look(source.batch(torch.Generator().manual_seed(problem.seed * 1_000_003 + i)))
        return correction


class Correction:
    """One pass of training: the discriminator's step, and the loss of the model.

    Args:
        seed: of the discriminator's first weights.
    """

    def __init__(self, weights: Weights, source: Source, config: DoCoConfig, seed: int) -> None:
        self._weights, self._source, self._config = weights, source, config
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self._judge = discriminator(weights.family.latent_shape[0]).to(weights.family.device)
        self._optimiser = torch.optim.Adam(self._judge.parameters(), lr=config.judge_lr, betas=(0.5, 0.999))

    def __call__(self, generator: torch.Generator) -> Losses:
        batch, config = self._source.batch(generator), self._config
        target = clean(batch, batch.student(batch.concept))
        judged = self.tell_apart(batch, target.detach())
        logits = self._judge(target)
        erase = bce(logits, torch.zeros_like(logits))
        return {**with_retention(batch, erase, config), "judge": judged}

    @torch.no_grad()
    def look(self, batch: Batch) -> Tensor:
        """One step of the discriminator alone; its loss."""
        return self.tell_apart(batch, clean(batch, batch.student(batch.concept)))

    def tell_apart(self, batch: Batch, target: Tensor) -> Tensor:
        """One step of the discriminator; its loss.

        Args:
            target: (B, c, h, w) clean latents by the model in training under the target's prompts, without gradients.
        """
        anchor = clean(batch, batch.teacher(batch.anchor))
        self._optimiser.zero_grad(set_to_none=True)
        with torch.enable_grad():
            of_anchor, of_target = self._judge(anchor), self._judge(target)
            loss = bce(of_anchor, torch.zeros_like(of_anchor)) + bce(of_target, torch.ones_like(of_target))
            loss.backward()
        self._optimiser.step()
        return loss.detach()

    def state_dict(self) -> dict[str, Any]:
        """The discriminator and its optimiser."""
        return {"judge": self._judge.state_dict(), "optimiser": self._optimiser.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with a discriminator."""
        self._judge.load_state_dict(state["judge"])
        self._optimiser.load_state_dict(state["optimiser"])


def clean(batch: Batch, prediction: Tensor) -> Tensor:
    """(B, c, h, w) the clean latents that predictions at the latents of a batch imply."""
    return batch.weights.family.noising.clean(prediction, batch.x_t, batch.t)


def discriminator(channels: int, width: int = 64) -> nn.Module:
    """(B, c, h, w) latents to (B, 1, h/4, w/4) logits, one a patch (PatchGAN, arXiv 1611.07004)."""
    return nn.Sequential(
        nn.Conv2d(channels, width, 4, stride=2, padding=1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(width, 2 * width, 4, stride=2, padding=1),
        nn.GroupNorm(8, 2 * width),
        nn.LeakyReLU(0.2),
        nn.Conv2d(2 * width, 1, 3, padding=1),
    )
