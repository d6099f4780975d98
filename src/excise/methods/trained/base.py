"""Base classes of trained methods: `Trained`, and `Distilled` for those that are a loss on a batch."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

from excise.concepts.concept import Concept, fill
from excise.edits.edit import Edit, applied_edits
from excise.errors import SettingError, TrainingError
from excise.families.base import Family
from excise.families.capabilities import ATTENTION
from excise.methods.base import Context, Made, Method, Request
from excise.methods.solution import Solution
from excise.methods.trained.request import training_problem
from excise.support.settings import Settings
from excise.training.adapters import Adapter, FullWeights, Weights
from excise.training.blocks import Batch, Prompts, Trajectories, empty_prompt, prompts_of
from excise.training.config import DistilledConfig, TrainedConfig
from excise.training.loop import Losses, Step, check_available
from excise.training.problem import TrainingProblem, TrainingResult
from excise.training.run import preview_of, train

ConfigT = TypeVar("ConfigT", bound=TrainedConfig)
DistilledT = TypeVar("DistilledT", bound=DistilledConfig)


class Trained(Method[ConfigT]):
    """A method that trains weights of the model on a training problem."""

    shape: ClassVar[str] = "trained"
    needs: ClassVar[frozenset[str]] = frozenset({ATTENTION})
    config_base: ClassVar[type[Settings]] = TrainedConfig

    @abstractmethod
    def train(self, problem: TrainingProblem, config: ConfigT) -> TrainingResult:
        """Train, and return the deltas of the chosen checkpoint, with the evidence for the record."""

    def make(self, request: Request, config: ConfigT, context: Context) -> Made:
        """Train on top of the edits that are applied to the model; the evidence names them ("after").

        Raises:
            SettingError: the precision or the tracker is not available.
            ModelError: the model cannot be trained as it is loaded.
            TrainingError: the device ran out of memory, or the loss did not stay finite.
        """
        check_available(config.precision, config.tracker)
        request.family.check_trainable()
        began = time.perf_counter()
        problem = training_problem(request, context, config.precision, config.draw)
        try:
            training = self.train(problem, config)
        except torch.OutOfMemoryError as error:
            raise TrainingError(
                "the device ran out of memory while pictures were drawn or looked at; use "
                "--set draw=1, load the model with --dtype float16, or use a smaller judge."
            ) from error
        earlier = [_named(edit, strength) for edit, strength in applied_edits(request.family)]
        evidence: dict[str, Any] = {**training.evidence, **({"after": earlier} if earlier else {})}
        return Made(
            Solution(modules=training.modules),
            evidence=evidence,
            pictures=training.pictures,
            seconds={"train": time.perf_counter() - began},
        )


class Distilled(Trained[DistilledT]):
    """A method that is a loss on predictions of the student and of the teacher, the untouched model.

    The base class samples the latents, encodes the prompts (at each step where a text encoder is trained), and trains a
    LoRA or the weights themselves.
    """

    config_base: ClassVar[type[Settings]] = DistilledConfig

    @abstractmethod
    def targets(self, family: Family, config: DistilledT) -> list[str]:
        """Paths of the modules to train.

        Raises:
            ModelError: the family has none of them.
        """

    @abstractmethod
    def loss(self, batch: Batch, config: DistilledT) -> Tensor:
        """The loss to minimise, as one number; the base class adds the retain loss."""

    def check(self, problem: TrainingProblem, config: DistilledT) -> None:
        """Refuse settings before anything is drawn.

        Raises:
            SettingError: full weights in half precision, or a retain loss without prompts to keep.
        """
        if config.retain_weight and not problem.retain:
            raise SettingError(
                "retain_weight needs prompts to keep (a vocabulary, --preserve, or --preserve-file); name some, or "
                "leave it at 0."
            )
        dtypes = {problem.family.parameter(path).dtype for path in self.targets(problem.family, config)}
        if config.weights == "full" and (half := dtypes - {torch.float32}):
            raise SettingError(
                f"weights=full trains the weights in single precision, and the model is loaded in {half.pop()}; load "
                "it with --dtype float32, or train a LoRA (--set weights=lora)."
            )

    def train(self, problem: TrainingProblem, config: DistilledT) -> TrainingResult:
        """Train on the targets' prompts, one target a pass, and choose a checkpoint."""
        self.check(problem, config)
        paths = self.targets(problem.family, config)
        weights: Weights = FullWeights(problem.family, paths)
        if config.weights == "lora":
            weights = Adapter(problem.family, paths, config.rank, problem.seed)

        def step_of(attached: Weights) -> Step:
            source = trajectories(problem, config, attached)
            return lambda generator: self.losses(source.batch(generator), config)

        return TrainingResult(*train(problem, config, weights, step_of, preview_of(problem)))

    def losses(self, batch: Batch, config: DistilledT) -> Losses:
        """The losses of a batch by name: "loss" is minimised, "retain" is logged where there is one."""
        loss = self.loss(batch, config)
        if batch.retain is None:
            return {"loss": loss}
        retain = batch.retain_loss()
        return {"loss": loss + config.retain_weight * retain, "retain": retain}


def prompts_about(problem: TrainingProblem, weights: Weights, kind: str, names: Sequence[str]) -> Prompts:
    """Names in every template of a kind, one name after the other, and where they stand in their prompts."""
    texts = [p for name in names for p in fill(problem.templates[kind], name)]
    return prompts_of(weights, texts, [name for name in names for _ in problem.templates[kind]])


def trajectories(
    problem: TrainingProblem, config: DistilledConfig, weights: Weights, located: bool = False
) -> Trajectories:
    """Batches of a problem: the targets' words in their templates, and their anchors in the same ones.

    Args:
        located: look up where the targets' words stand in their prompts.
    """

    def filled(concept: Concept, words: Sequence[str]) -> list[str]:
        return [p for word in words for p in fill(problem.templates[concept.kind], word)]

    if located:
        concepts = [prompts_about(problem, weights, c.kind, c.words) for c in problem.concepts]
    else:
        concepts = [prompts_of(weights, filled(c, c.words)) for c in problem.concepts]
    anchors = [prompts_of(weights, filled(c, [c.anchor or ""] * len(c.words))) for c in problem.concepts]
    retain = prompts_of(weights, [*problem.retain, ""]) if config.retain_weight else None
    return Trajectories(
        weights,
        concepts,
        anchors,
        empty_prompt(weights),
        retain,
        size=config.batch,
        by=config.by,
        steps=config.sampler_steps,
        guidance=config.guidance,
    )


def _named(edit: Edit, strength: float) -> str:
    """The method and the concepts of an edit, and its strength where that is not 1."""
    names = ", ".join(c.name for c in edit.record.concepts)
    strength *= edit.strength
    return f"{edit.record.method}: {names}" + ("" if strength == 1 else f" at strength {strength:g}")
