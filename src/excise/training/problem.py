"""What a trained method is given, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from excise.concepts.concept import Concept
from excise.edits.deltas import Delta
from excise.families.base import Family
from excise.training.pictures import Sampling
from excise.training.probes import Probe
from excise.training.scorers import Scorer

if TYPE_CHECKING:
    pass


Say = Callable[[str, int, int], None]
"""Receives what is being done, how much of it is done, and how much there is."""


@dataclass(frozen=True)
class Room:
    """What a trained method has around it.

    Attributes:
        judge: a folder of a CLIP model, a callable (images, names) to booleans, or an object with `sees`; built-in
            models have their own, elsewhere None trains without looking.
        folder: of checkpoints, to go on from after an interruption; None keeps none.
        cache: of localisations, which serve every concept of a kind; None keeps none.
        say: receives what is being done, how much of it is done, and how much there is.
        charts: also draw what a report shows and nothing is decided by (minutes on a large model).
        pictures: receives what was drawn.
    """

    judge: Any = None
    folder: Path | None = None
    cache: Path | None = None
    say: Say = lambda what, done, total: None
    charts: bool = False
    pictures: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TrainingProblem:
    """A request, with everything around it that training needs.

    Attributes:
        concepts: the targets. templates: by kind, prompts in which a target is looked at ("{}" is its name).
        retain: prompts to keep as they are. preserve: names to keep, never distractors.
        candidates: by target, names of its own level that may compete for its prompts.
        probes: prompts to watch while training, by target name; none is a test's.
        scorer: looks at pictures; None where there is nothing to look with.
        sampling: how training pictures are drawn.
        folder: for checkpoints. cache: for localisations. None keeps nothing.
        charts: also draw what only a report shows.
    """

    family: Family
    concepts: Sequence[Concept]
    templates: Mapping[str, Sequence[str]]
    retain: Sequence[str] = ()
    preserve: Sequence[str] = ()
    candidates: Mapping[str, Sequence[str]] = field(default_factory=dict)
    probes: Mapping[str, Sequence[Probe]] = field(default_factory=dict)
    scorer: Scorer | None = None
    sampling: Sampling = field(default_factory=lambda: Sampling(20, 4.0))
    seed: int = 0
    folder: Path | None = None
    cache: Path | None = None
    say: Say = lambda what, done, total: None
    charts: bool = False


@dataclass(frozen=True)
class Trained:
    """The deltas of a trained method, what it measured on the way, and pictures of that for the report."""

    modules: Mapping[str, Delta]
    evidence: Mapping[str, Any] = field(default_factory=dict)
    pictures: Mapping[str, Any] = field(default_factory=dict)
