"""The objective of SurgUn, and one training by it.

L = w L_D + lambda C,     L_D, C: see method.py
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from excise.edits.deltas import Delta
from excise.methods.trained.surgun import contrasts
from excise.methods.trained.surgun.competition import Competition, Retained
from excise.methods.trained.surgun.config import SurgUnConfig
from excise.training.adapters import Weights
from excise.training.loop import Losses, Step
from excise.training.probes import Preview
from excise.training.problem import TrainingProblem
from excise.training.run import train

MAX_RETAINED = 512  # prompts of the retain loss, encoded once
GUARD = 50.0  # times the initial L_T, beyond which the contrast rests


def objective(
    target: Tensor,
    distractor: Tensor,
    config: SurgUnConfig,
    start: float,
    reference: tuple[Tensor, Tensor] | None = None,
) -> Losses:
    """L = w L_D + lambda C from per-sample errors.

    Args:
        target, distractor: (m,) errors. start: the untouched model's L_T.
        reference: the untouched model's errors on the same batch, for npo and duo.
    """
    L_T, L_D = target.mean(), distractor.mean()
    C = _contrast(target, distractor, config, start, reference)
    if float(L_T.detach()) > GUARD * start and config.contrast != "ga":
        C = C.detach()
    return {"loss": config.descent * L_D + config.weight * C, "target": L_T, "distractors": L_D, "contrast": C}


def _contrast(
    target: Tensor,
    distractor: Tensor,
    config: SurgUnConfig,
    start: float,
    reference: tuple[Tensor, Tensor] | None,
) -> Tensor:
    if config.contrast == "ratio":
        return contrasts.ratio(target, distractor, config.floor)
    if config.contrast == "logasc":
        return contrasts.logasc(target, config.floor)
    if config.contrast == "ga":
        return contrasts.capped_ascent(target, config.cap * start)
    if config.contrast == "none":
        return torch.zeros(())
    assert reference is not None, "npo and duo compare with the untouched model"
    if config.contrast == "npo":
        return contrasts.npo(target, reference[0], config.beta)
    return contrasts.duo(target, distractor, *reference, config.beta)


def step_of(adapter: Weights, competitions: Sequence[Competition], config: SurgUnConfig) -> Step:
    """One pass of training: the mean loss over the targets."""
    starts = [_start(adapter, c) for c in competitions]

    def step(generator: torch.Generator) -> Losses:
        parts = []
        for competition, start in zip(competitions, starts, strict=True):
            batch = competition.batch(generator)
            reference = None
            if config.contrast in ("npo", "duo"):
                with adapter.teacher(), torch.no_grad():
                    reference = competition.errors(batch)
            losses = dict(objective(*competition.errors(batch), config, start, reference))
            if config.retain_weight:
                losses["retain"] = competition.drift(generator, adapter)
                losses["loss"] = losses["loss"] + config.retain_weight * losses["retain"]
            parts.append(losses)
        return {name: torch.stack([p[name] for p in parts]).mean() for name in parts[0]}

    return step


@torch.no_grad()
def _start(adapter: Weights, competition: Competition) -> float:
    """L_T of the untouched model under the target's own prompts, over a few batches."""
    generator, own = torch.Generator().manual_seed(0), competition.plain
    with adapter.teacher():
        return float(torch.stack([own.errors(own.batch(generator))[0].mean() for _ in range(4)]).mean())


@dataclass(frozen=True)
class Job:
    """One training.

    Attributes:
        preview: to judge blocks and checkpoints by.
    """

    problem: TrainingProblem
    config: SurgUnConfig
    competitions: Sequence[Competition]
    preview: Preview | None

    def step(self, adapter: Weights) -> Step:
        """One pass of training of an adapter."""
        return step_of(adapter, self.competitions, self.config)

    def train(
        self, adapter: Weights, on_chosen_checkpoint: Callable[[Weights], None] | None = None
    ) -> tuple[Mapping[str, Delta], dict[str, Any]]:
        """As `training.run.train`."""
        learning = [c.adversary for c in self.competitions if c.adversary]
        return train(self.problem, self.config, adapter, self.step, self.preview, on_chosen_checkpoint, learning)

    def aside(self, name: str) -> Job:
        """The same job, with a subfolder for its checkpoints."""
        folder = self.problem.folder / name if self.problem.folder else None
        return replace(self, problem=replace(self.problem, folder=folder))


def retained_of(problem: TrainingProblem, prompts: Sequence[str], pictures: Tensor | None = None) -> Retained:
    """Prompts for the retain loss, with the empty one, and pictures of the first of them."""
    return Retained(problem.family.condition([*prompts, ""]).to(torch.device("cpu"), torch.float32), pictures)


def retain_prompts(problem: TrainingProblem, first: Sequence[str] = ()) -> list[str]:
    """At most MAX_RETAINED of the prompts to retain: those of `first`, then others in random order."""
    order = torch.randperm(len(problem.retain), generator=torch.Generator().manual_seed(problem.seed)).tolist()
    return list(dict.fromkeys([*first, *(problem.retain[i] for i in order)]))[:MAX_RETAINED]
