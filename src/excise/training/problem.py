"""What a trained method is given, and what it gives back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from excise.concepts.concept import Concept
from excise.edits.deltas import Delta
from excise.families.base import Family
from excise.support.progress import Report, silent
from excise.training.pictures import Sampling
from excise.training.probes import Probe
from excise.training.scorers import Scorer


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
    say: Report = silent
    charts: bool = False


@dataclass(frozen=True)
class TrainingResult:
    """The deltas of a trained method, what it measured on the way, and pictures of that for the report."""

    modules: Mapping[str, Delta]
    evidence: Mapping[str, Any] = field(default_factory=dict)
    pictures: Mapping[str, Any] = field(default_factory=dict)
