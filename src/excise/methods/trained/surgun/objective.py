"""The settings of SurgUn, what it minimises, and one training by it, wherever that takes place.

L = w L_D + lambda C,     L_D, C: see methods/surgun.py
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from excise.edits.deltas import Delta
from excise.methods.trained.surgun import contrasts
from excise.methods.trained.surgun.competition import Competition, Kept
from excise.training.adapters import Weights
from excise.training.config import TrainedConfig
from excise.training.loop import Losses, Step
from excise.training.probes import Look
from excise.training.problem import TrainingProblem
from excise.training.run import train

MOST_KEPT = 512  # prompts of the retain loss, encoded once
GUARD = 50.0  # times the initial L_T, beyond which the contrast rests


class SurgUnConfig(TrainedConfig):
    """Settings of SurgUn."""

    steadier: ClassVar[str] = f"{TrainedConfig.steadier} or choose a bounded contrast (--set contrast=ratio)"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "canvas": {
            "rank": 8,
            "lr": 3e-3,
            "steps": 120,
            "save_every": 20,
            "batch": 16,
            "count": 4,
            "pictures": 24,
            "judged": 104,
        },
    }

    modules: Literal["cross_kv", "cross", "self", "attention"] = Field(
        "attention",
        description="Which maps to train when not confined: keys and values that read text, all of cross-attention, "
        "all of self-attention, or both.",
    )
    contrast: Literal["ratio", "logasc", "npo", "duo", "ga", "none"] = Field(
        "ratio", description="The term that pushes the target's own denoising away."
    )
    weight: float = Field(0.1, ge=0, description="Weight of the contrast (lambda).")
    descent: float = Field(1.0, ge=0, description="Weight of the distractors' own error (w); 0 leaves them out.")
    floor: float = Field(1e-3, gt=0, description="Softening of the contrasts ratio and logasc (d).")
    beta: float = Field(5.0, gt=0, description="Sharpness of the contrasts npo and duo.")
    cap: float = Field(4.0, gt=0, description="Cap of the contrast ga, in units of the initial error; inf for none.")
    distractors: str = Field("", description="Names that compete, separated by commas; empty to choose them.")
    count: int = Field(8, ge=1, description="Number of distractors (K), where they are chosen.")
    spread: Literal["far", "near"] = Field("far", description="Choose diverse distractors, or the nearest ones.")
    pictures: int = Field(32, ge=2, description="Pictures of the target, and of each distractor.")
    caption: Literal["target", "own"] = Field("target", description="Prompts that distractors are trained under.")
    share_noise: bool = Field(True, description="One noise for a target and its distractor.")
    robust: int = Field(
        0,
        ge=0,
        description="Most further trainings, in all of attention, against words that bring the target back, which are "
        "searched or learnt before each and in it; no more where a judge sees that none does.",
    )
    push: float = Field(
        10.0,
        gt=0,
        description="Of robust: times the weight of the contrast there, at first; less keeps more and resists less.",
    )
    judged: int = Field(
        48,
        ge=1,
        description="Of robust: least pictures of what is kept, on either side, by which each checkpoint is judged.",
    )
    retain_weight: float = Field(
        0.0,
        ge=0,
        description="Weight of staying near the untouched model on prompts to keep; 0 leaves that to where "
        "the training takes place.",
    )
    blocks: str = Field(
        "auto",
        description="Attention blocks to train: auto (localised; all when confined), all, random:n, worst:n, or their "
        "names separated by commas.",
    )
    keep_blocks: int = Field(2, ge=1, description="Blocks that localisation keeps.")
    inject: bool = Field(
        False,
        description="Probe only the third of the blocks through which the target's prompt acts most (prompt "
        "injection); where blocks are many.",
    )
    reuse_blocks: bool = Field(
        True, description="Take the localisation of an earlier concept of the kind, where one is kept."
    )
    confine: bool = Field(
        True, description="Change text-reading keys and values alone, in a part of text space that spares what is kept."
    )
    span: Literal["target", "null"] = Field(
        "target", description="That part: what tells the target from what is kept, or what is kept does not use at all."
    )
    share: float = Field(
        0.03,
        gt=0,
        description="Of span=target: largest kept energy beside the target's; its clearest direction counts always.",
    )
    widen: float = Field(
        10.0,
        ge=1,
        description="Of span=target: where a judge still sees the target after training, train once more with share "
        "times this; 1 for never.",
    )
    ridge: float = Field(1e-2, gt=0, description="Of span=target: added to the kept moment, in its mean eigenvalues.")
    threshold: float = Field(1e-2, gt=0, description="Of span=null: eigenvalues of the kept moment below it are null.")


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
    """One training, wherever it takes place.

    Attributes:
        look: to judge blocks and checkpoints by.
    """

    problem: TrainingProblem
    config: SurgUnConfig
    competitions: Sequence[Competition]
    look: Look | None

    def step(self, adapter: Weights) -> Step:
        """One pass of training of an adapter."""
        return step_of(adapter, self.competitions, self.config)

    def train(
        self, adapter: Weights, on_chosen_checkpoint: Callable[[Weights], None] | None = None
    ) -> tuple[Mapping[str, Delta], dict[str, Any]]:
        """As `training.run.train`."""
        learning = [c.adversary for c in self.competitions if c.adversary]
        return train(self.problem, self.config, adapter, self.step, self.look, on_chosen_checkpoint, learning)

    def aside(self, name: str) -> Job:
        """The same with a folder of its own."""
        folder = self.problem.folder / name if self.problem.folder else None
        return replace(self, problem=replace(self.problem, folder=folder))


def kept_of(problem: TrainingProblem, prompts: Sequence[str], pictures: Tensor | None = None) -> Kept:
    """What the retain loss holds: prompts, the empty one beside them, and pictures of the first of them."""
    return Kept(problem.family.condition([*prompts, ""]).to(torch.device("cpu"), torch.float32), pictures)


def kept_prompts(problem: TrainingProblem, first: Sequence[str] = ()) -> list[str]:
    """At most MOST_KEPT of the prompts to keep, in random order after those that are to be first."""
    order = torch.randperm(len(problem.retain), generator=torch.Generator().manual_seed(problem.seed)).tolist()
    return list(dict.fromkeys([*first, *(problem.retain[i] for i in order)]))[:MOST_KEPT]
