"""Base class of trained methods: a training problem in, deltas and what was measured out."""

from __future__ import annotations

import time
from abc import abstractmethod
from typing import Any, ClassVar, TypeVar

import torch

from excise.edits.edit import Edit, applied_edits
from excise.errors import TrainingError
from excise.methods.base import Context, Made, Method, Request
from excise.methods.solution import Solution
from excise.methods.trained.request import training_problem
from excise.support.settings import Settings
from excise.training.config import TrainedConfig
from excise.training.loop import check_available
from excise.training.problem import TrainingProblem, TrainingResult

ConfigT = TypeVar("ConfigT", bound=TrainedConfig)


class Trained(Method[ConfigT]):
    """A method that trains: everything that training needs in, deltas out."""

    shape: ClassVar[str] = "trained"
    config_base: ClassVar[type[Settings]] = TrainedConfig

    @abstractmethod
    def train(self, problem: TrainingProblem, config: ConfigT) -> TrainingResult:
        """Train, and return the deltas of the checkpoint that is kept, with what was measured on the way."""

    def make(self, request: Request, config: ConfigT, context: Context) -> Made:
        """Train on top of the edits that are applied to the model, which the evidence names ("after").

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


def _named(edit: Edit, strength: float) -> str:
    """The method and the concepts of an edit, and its strength where that is not 1."""
    names = ", ".join(c.name for c in edit.record.concepts)
    strength *= edit.strength
    return f"{edit.record.method}: {names}" + ("" if strength == 1 else f" at strength {strength:g}")
