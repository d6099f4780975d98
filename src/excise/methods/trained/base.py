"""Base classes of trained methods: `Trained`, `Stepped` on latents of the targets, `Distilled` by a loss of a batch."""

from __future__ import annotations

import time
from abc import abstractmethod
from dataclasses import replace
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

from excise.edits.apply import temporarily_applied
from excise.edits.deltas import added_up
from excise.edits.edit import Edit, applied_edits
from excise.edits.originals import original_weights
from excise.errors import SettingError, TrainingError
from excise.families.base import Family
from excise.families.capabilities import ATTENTION
from excise.methods.base import Context, Made, Method, Request
from excise.methods.closed_form.base import ClosedForm
from excise.methods.solution import Solution, as_deltas
from excise.methods.trained.material import (
    check_settings,
    check_single,
    drawn,
    kept_of,
    source_of,
    weights_of,
    without_silent,
)
from excise.methods.trained.request import training_problem
from excise.methods.trained.several import one_by_one
from excise.support.settings import Settings
from excise.training.adapters import Weights
from excise.training.averaging import Average
from excise.training.blocks import Batch
from excise.training.config import DistilledConfig, TrainedConfig
from excise.training.loop import Losses, Step, check_available
from excise.training.losses import combined, mse
from excise.training.masking import Masked, saliency
from excise.training.probes import Preview
from excise.training.problem import TrainingProblem, TrainingResult
from excise.training.run import preview_of, train
from excise.training.sources import Pool, Source, Trajectories

ConfigT = TypeVar("ConfigT", bound=TrainedConfig)
ClosedFormStage = tuple[ClosedForm[Any], Any]
DistilledT = TypeVar("DistilledT", bound=DistilledConfig)


class Trained(Method[ConfigT]):
    """A method that trains weights of the model on a training problem."""

    shape: ClassVar[str] = "trained"
    needs: ClassVar[frozenset[str]] = frozenset({ATTENTION})
    config_base: ClassVar[type[Settings]] = TrainedConfig
    for_one: ClassVar[bool] = False
    """Whether the method is defined for one target; several are trained one after another then, and joined."""
    keeps_nothing: ClassVar[bool] = True
    """Whether the empty prompt is among what is retained."""

    @abstractmethod
    def train(self, problem: TrainingProblem, config: ConfigT) -> TrainingResult:
        """Train, and return the deltas of the chosen checkpoint, with the evidence for the record."""

    def closed_form(self, config: ConfigT) -> ClosedFormStage | None:
        """A closed form that is in force while the rest is trained, and its settings; none by default."""
        return None

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
            training = self._trained(request, config, context, problem)
        except torch.OutOfMemoryError as error:
            raise TrainingError(
                "the device ran out of memory while pictures were drawn or looked at; use "
                "--set draw=1, load the model with --dtype float16, or use a smaller judge."
            ) from error
        earlier = [_named(edit, strength) for edit, strength in applied_edits(request.family)]
        evidence: dict[str, Any] = {**training.evidence, **({"after": earlier} if earlier else {})}
        return Made(
            Solution(modules=training.modules),
            hooks=training.hooks,
            evidence=evidence,
            pictures=training.pictures,
            seconds={"train": time.perf_counter() - began},
        )

    def _trained(self, request: Request, config: ConfigT, context: Context, problem: TrainingProblem) -> TrainingResult:
        """The training, on top of the closed form where there is one; both as one change of each weight."""
        stage = self.closed_form(config)
        if stage is None:
            return self._all(problem, config)
        form, settings = stage
        solution = form.make(request, settings, context).weights
        paths = [p for m in solution.text_maps for p in m.modules]
        first = as_deltas(solution, original_weights(request.family, [*paths, *(solution.modules or {})]))
        with temporarily_applied(request.family, first) as lifted:
            training = self._all(replace(problem, original=lifted), config)
        return replace(training, modules=added_up([first, training.modules]))

    def _all(self, problem: TrainingProblem, config: ConfigT) -> TrainingResult:
        """The training of all targets: together, or each alone."""
        if self.for_one and len(problem.concepts) > 1:
            return one_by_one(problem, config, lambda single: self.train(single, config), self.keeps_nothing)
        return self.train(problem, config)


class Stepped(Trained[DistilledT]):
    """A method that trains a LoRA or the weights themselves, step by step, on latents and prompts of its targets.

    The base class makes the latents, encodes the prompts (at each step where a text encoder is trained), and trains by
    the shared settings (`DistilledConfig`).
    """

    config_base: ClassVar[type[Settings]] = DistilledConfig
    located: ClassVar[bool] = False
    """Whether a step asks where the targets' words stand in their prompts."""

    @abstractmethod
    def targets(self, family: Family, config: DistilledT) -> list[str]:
        """Paths of the modules to train.

        Raises:
            ModelError: the family has none of them.
        """

    @abstractmethod
    def step(self, problem: TrainingProblem, config: DistilledT, weights: Weights, source: Source) -> Step:
        """One pass of training; what is learnt beside the weights is kept in what is returned (`Stateful`)."""

    def forget(self, batch: Batch, config: DistilledT) -> Tensor:
        """The loss whose gradient tells which entries a mask leaves to training: the target's own denoising."""
        return -mse(batch.student(batch.concept), batch.truth())

    def preview(self, problem: TrainingProblem, config: DistilledT) -> Preview | None:
        """The probes by which the checkpoint is chosen; None without a judge."""
        return preview_of(problem)

    def check(self, problem: TrainingProblem, config: DistilledT) -> None:
        """Refuse settings before anything is drawn.

        Raises:
            SettingError: settings that exclude one another, full weights in half precision, or a retain loss that was
                asked for without prompts to keep; where a method has one by itself, the empty prompt alone is kept.
        """
        check_settings(config)
        asked = not type(config).model_fields["retain_weight"].default
        if config.retain_weight and asked and not problem.retain and config.retain_on != "anchor":
            raise SettingError(
                "retain_weight needs prompts to keep (a vocabulary, --preserve, or --preserve-file); name some, or "
                "leave it at 0."
            )
        if config.weights == "full":
            check_single(problem.family, self.targets(problem.family, config))

    def train(self, problem: TrainingProblem, config: DistilledT) -> TrainingResult:
        """Train on the targets' prompts, one target a pass, and choose a checkpoint."""
        self.check(problem, config)
        weights = weights_of(problem, config, self.targets(problem.family, config))
        average = Average(weights, config.ema) if config.ema else None
        pool = Pool(config.reuse) if config.reuse > 1 else None
        with problem.original():
            preview, material = self.preview(problem, config), drawn(problem, config)

        def step_of(attached: Weights) -> Step:
            kept = kept_of(problem, config, attached, material, self.keeps_nothing)
            source = source_of(problem, config, attached, material, kept, average, self.located, pool)
            if isinstance(attached, Masked):
                anew = replace(source, pool=None) if isinstance(source, Trajectories) else source
                seen = saliency(
                    attached, lambda g: self.forget(anew.batch(g), config), config.mask_passes, problem.seed
                )
                attached.choose(seen, config.mask_share, config.mask_within)
            return self.step(problem, config, attached, source)

        further = [state for state in (weights, pool) if isinstance(state, (Masked, Pool))]
        modules, evidence = train(problem, config, weights, step_of, preview, extra_state=further, average=average)
        return TrainingResult(*without_silent(weights, modules, evidence))


class Distilled(Stepped[DistilledT]):
    """A method that is a loss on predictions of the student and of the teacher, the untouched model."""

    @abstractmethod
    def loss(self, batch: Batch, config: DistilledT) -> Tensor:
        """The loss to minimise, as one number; the base class adds the retain loss."""

    def forget(self, batch: Batch, config: DistilledT) -> Tensor:
        """The loss whose gradient tells which entries a mask leaves to training: the method's own."""
        return self.loss(batch, config)

    def step(self, problem: TrainingProblem, config: DistilledT, weights: Weights, source: Source) -> Step:
        """One pass of training: the losses of a batch."""
        return lambda generator: self.losses(source.batch(generator), config)

    def losses(self, batch: Batch, config: DistilledT) -> Losses:
        """The losses of a batch by name: "loss" is minimised, the others are logged."""
        return with_retention(batch, self.loss(batch, config), config)


def with_retention(batch: Batch, erase: Tensor, config: DistilledConfig) -> Losses:
    """The loss of erasing joined with that of retaining, where the batch has anything to retain; each by its name."""
    if batch.retain is None and batch.kept is None:
        return {"loss": erase}
    retain = batch.retain_loss()
    trained = batch.weights.parameters.values()
    total = combined(config.combine, erase, config.retain_weight * retain, trained)
    return {"loss": total, "erase": erase, "retain": retain}


def _named(edit: Edit, strength: float) -> str:
    """The method and the concepts of an edit, and its strength where that is not 1."""
    names = ", ".join(c.name for c in edit.record.concepts)
    strength *= edit.strength
    return f"{edit.record.method}: {names}" + ("" if strength == 1 else f" at strength {strength:g}")
