"""The input and the output of a trained method."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from excise.concepts.concept import Concept
from excise.edits.deltas import Delta
from excise.edits.hooks import Hook
from excise.families.base import Family
from excise.judges.base import OpenJudge
from excise.support.display import Card, Showing, described, some
from excise.support.progress import Report, silent
from excise.training.pictures import Sampling
from excise.training.probes import Probe


@dataclass(frozen=True, repr=False)
class TrainingProblem(Showing):
    """A request, with everything else that training needs.

    Attributes:
        family: the model.
        concepts: the targets.
        templates: by kind, prompts for a target ("{}" is its name).
        retain: prompts to retain.
        preserve: names to retain, which are never distractors.
        candidates: by target, names of its level that may compete for its prompts.
        probes: by target, prompts whose pictures judge a checkpoint; no test has them.
        scorer: judges pictures; None trains without a judge.
        sampling: how training pictures are drawn.
        seed: random seed of the training.
        folder: for checkpoints; None saves none.
        cache: for localisations; None saves none.
        say: receives progress.
        original: a block in which the model is without the closed form that training starts from, if there is one.
        charts: also draw pictures that only a report shows.
    """

    family: Family
    concepts: Sequence[Concept]
    templates: Mapping[str, Sequence[str]]
    retain: Sequence[str] = ()
    preserve: Sequence[str] = ()
    candidates: Mapping[str, Sequence[str]] = field(default_factory=dict)
    probes: Mapping[str, Sequence[Probe]] = field(default_factory=dict)
    scorer: OpenJudge | None = None
    sampling: Sampling = field(default_factory=lambda: Sampling(20, 4.0))
    seed: int = 0
    folder: Path | None = None
    cache: Path | None = None
    say: Report = silent
    charts: bool = False
    original: Callable[[], AbstractContextManager[None]] = nullcontext

    def card(self) -> Card:
        """What the problem shows of itself."""
        return described(f"Training problem: erase {some([c.name for c in self.concepts])}", self)


@dataclass(frozen=True)
class TrainingResult:
    """The deltas of a trained method, its measurements for the record, pictures for the report, and its hooks."""

    modules: Mapping[str, Delta]
    evidence: Mapping[str, Any] = field(default_factory=dict)
    pictures: Mapping[str, Any] = field(default_factory=dict)
    hooks: tuple[Hook, ...] = ()
