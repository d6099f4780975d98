"""Receler: light erasers behind cross-attention, trained against prompts that regain the concept, silent elsewhere.

Paper:      Huang et al., "Receler: Reliable Concept Erasing of Text-to-Image Diffusion Models via Lightweight Erasers",
            ECCV 2024, arXiv 2311.17717, eq. 3 to 7
Provenance: written from the paper and from the published behaviour of the program; no code of it is used

An eraser adds o_l = up gelu(down h_l) to the output h_l of cross-attention layer l. With the untouched model f*,
latents x_t that are being denoised under the concept c, and c' the concept with learnt states behind its words,

    erasers:     min |f(x_t, c') - (f*(0) - eta (f*(c) - f*(0)))|^2 + lambda mean_l |o_l (1 - M)|^2
    adversary:   min |f(x_t, c') - f*(x_t, c)|^2        over the learnt states, several steps for one of the erasers

M is 1 where the untouched model's attention to the concept's words is strong. The adversary goes on from step to step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor

from excise.families.conditions import Condition
from excise.methods.trained.base import Trained
from excise.methods.trained.material import check_settings, drawn, source_of
from excise.methods.trained.receler_config import RecelerConfig
from excise.methods.trained.receler_hook import Erasers
from excise.training.adapters import Weights
from excise.training.attention import captured, reading_layers
from excise.training.blocks import Batch
from excise.training.bottlenecks import Bottlenecks
from excise.training.config import DistilledConfig
from excise.training.loop import Losses, Step
from excise.training.losses import mse, push_away, within
from excise.training.masks import concept_mask
from excise.training.problem import TrainingProblem, TrainingResult
from excise.training.run import preview_of, train
from excise.training.sources import Source

STATES = "encoder_hidden_states"
DECAY = 0.1  # of the adversary's weights (program)


class Receler(Trained[RecelerConfig]):
    """The method as the registry knows it."""

    config_base = DistilledConfig
    Config = RecelerConfig

    def train(self, problem: TrainingProblem, config: RecelerConfig) -> TrainingResult:
        """Train the erasers; the edit is a hook.

        Raises:
            SettingError: settings that exclude one another.
            ModelError: the family has no plain cross-attention.
        """
        check_settings(config)
        layers = reading_layers(problem.family)
        weights = Bottlenecks(problem.family, layers, config.rank, problem.seed)
        material = drawn(problem, config)
        made: list[Erasers] = []

        def step_of(attached: Weights) -> Step:
            source = source_of(problem, config, attached, material, located=True)
            adversaries = [Adversary(config.tokens, config.adversary_lr) for _ in problem.concepts]
            return Rounds(weights, source, adversaries, config)

        def keep(chosen: Weights) -> None:
            state = chosen.state()
            down, up = ({path: state[f"{path}.{part}"] for path in layers} for part in ("down", "up"))
            made.append(Erasers(layers=tuple(layers), down=down, up=up))

        modules, evidence = train(problem, config, weights, step_of, preview_of(problem), keep)
        return TrainingResult(modules, evidence, hooks=tuple(made))


class Rounds:
    """One pass of training: some steps of a target's adversary, then the loss of the erasers.

    Args:
        adversaries: by target.
    """

    def __init__(
        self, weights: Bottlenecks, source: Source, adversaries: Sequence[Adversary], config: RecelerConfig
    ) -> None:
        self._weights, self._source, self._adversaries, self._config = weights, source, list(adversaries), config

    def __call__(self, generator: torch.Generator) -> Losses:
        batch, config = self._source.batch(generator), self._config
        family = batch.weights.family
        with captured(family, self._weights.paths) as capture:
            concept = batch.teacher(batch.concept)
        empty = batch.teacher(batch.empty)
        words = [row.nonzero().flatten().tolist() for row in batch.concept.words]
        side = (batch.x_t.shape[-2], batch.x_t.shape[-1])
        mask = concept_mask([*capture.maps.values()], words, side, config.threshold)
        adversary = self._adversaries[batch.number]
        for _ in range(config.adversary_steps):
            adversary.learn(batch, concept)
        prediction = family.predict(batch.x_t, batch.t, adversary.read(batch).detached())
        erase = mse(prediction, push_away(empty, concept, empty, config.eta))
        outside = spilled(self._weights.added, mask)
        loss = erase + config.local_weight * outside
        return {"loss": loss, "erase": erase, "outside": outside}

    def state_dict(self) -> dict[str, Any]:
        """What the adversaries have learnt."""
        return {"adversaries": [a.state_dict() for a in self._adversaries]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with adversaries."""
        for adversary, own in zip(self._adversaries, state["adversaries"], strict=True):
            adversary.load_state_dict(own)


class Adversary:
    """States behind the words of a concept that are learnt to regain it, one set for all of its prompts.

    Args:
        tokens: how many (k). rate: learning rate of Adam.
    """

    def __init__(self, tokens: int, rate: float) -> None:
        self._tokens, self._rate = tokens, rate
        self._learnt = torch.empty(0)
        self._optimiser: torch.optim.Optimizer | None = None

    def learn(self, batch: Batch, goal: Tensor) -> None:
        """One step towards what the untouched model predicts for the concept; the erasers get no gradient."""
        condition = self.read(batch)
        loss = mse(batch.weights.family.predict(batch.x_t, batch.t, condition), goal)
        (self._learnt.grad,) = torch.autograd.grad(loss, [self._learnt])
        assert self._optimiser is not None
        if bool(torch.isfinite(self._learnt.grad).all()):
            self._optimiser.step()

    def read(self, batch: Batch) -> Condition:
        """(B) prompts of the concept with the learnt states behind its words, as far as there is room."""
        own = batch.concept.teacher
        states = own.inputs[STATES]
        if self._optimiser is None:
            self._begin(states[:, -self._tokens :].float().mean(dim=0))
        words = batch.concept.words.long().to(states.device)
        last = (words * torch.arange(1, states.shape[1] + 1, device=states.device)).amax(dim=1)  # behind the last word
        place = torch.arange(states.shape[1], device=states.device) - last[:, None]  # (B, L)
        inside = (place >= 0) & (place < self._tokens)
        chosen = self._learnt.to(states)[place.clamp(0, self._tokens - 1)]  # (B, L, d)
        inputs = {**own.inputs, STATES: torch.where(inside[..., None], chosen, states)}
        for name in own.masks.values():
            inputs[name] = torch.where(inside, torch.ones_like(inputs[name]), inputs[name])
        return Condition(inputs, own.masks)

    def _begin(self, states: Tensor) -> None:
        self._learnt = states.detach().clone().requires_grad_(True)
        self._optimiser = torch.optim.Adam([self._learnt], lr=self._rate, weight_decay=DECAY)

    def state_dict(self) -> dict[str, Any]:
        """The learnt states and their optimiser."""
        optimiser = {} if self._optimiser is None else deepcopy(self._optimiser.state_dict())
        return {"learnt": self._learnt.detach().clone(), "optimiser": optimiser}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with states."""
        if state["optimiser"]:
            self._begin(state["learnt"])
            assert self._optimiser is not None
            self._optimiser.load_state_dict(state["optimiser"])


def spilled(added: Mapping[str, Tensor], mask: Tensor) -> Tensor:
    """Mean over layers of |o_l (1 - M)|^2.

    Args:
        added: by layer (B, N, d), what its eraser added at N positions of a square. mask: (B, 1, h, w).
    """
    parts = []
    for output in added.values():
        parts.append((output * (1 - within(mask, output.shape[1]))).square().mean())
    return torch.stack(parts).mean()
