"""What a trained method is given, and what it gives back."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from excise.concept import TEMPLATES, Concept, fill
from excise.edit import Delta, in_force
from excise.families.base import Family
from excise.training.distractors import CANDIDATES, pooled
from excise.training.pictures import Sampling
from excise.training.probes import Probe
from excise.training.scorers import Scorer, as_scorer

if TYPE_CHECKING:
    from excise.erasing import Request

CANVAS_SAMPLING = Sampling(12, 4.0, batch=40)
SAMPLING = Sampling(25, 7.0)
MOST_PROBES = 8  # of a role, where the caller's names are all there is

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
        pictures: receives what was drawn to decide by.
    """

    judge: Any = None
    folder: Path | None = None
    cache: Path | None = None
    say: Say = lambda what, done, total: None
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


def digest(what: Any) -> str:
    """SHA-256 of anything JSON can hold."""
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Trained:
    """The deltas of a trained method, what it measured on the way, and pictures of that for the report."""

    modules: Mapping[str, Delta]
    evidence: Mapping[str, Any] = field(default_factory=dict)
    pictures: Mapping[str, Any] = field(default_factory=dict)


def training_problem(asked: Request, room: Room, built_in: bool, precision: str = "no") -> TrainingProblem:
    """A request as trained methods take it: candidates by the target's level, probes by distance to it.

    Args:
        precision: in which its pictures are drawn.
    """
    words = asked.words
    candidates: dict[str, list[str]] = {}
    probes: dict[str, list[Probe]] = {}
    gone = {t.name for edit, _ in in_force(asked.family) for t in edit.record.concepts}
    for concept in asked.concepts:
        siblings = [n for n in words.siblings(concept) if n not in (*concept.words, *gone)]
        candidates[concept.name] = siblings or [n for n in CANDIDATES[concept.kind] if n not in gone]
        named = words.probes(concept.name, _nearest_first(asked.family, concept.name, siblings)) if siblings else ()
        probes[concept.name] = [Probe(*p) for p in named] or _probes(asked, concept)  # type: ignore[arg-type]
    return TrainingProblem(
        family=asked.family,
        concepts=asked.concepts,
        templates=words.templates,
        retain=asked.retain,
        preserve=asked.preserve,
        candidates=candidates,
        probes=probes,
        scorer=as_scorer(room.judge, built_in, [*(c.name for c in asked.concepts), *asked.preserve]),
        sampling=replace(CANVAS_SAMPLING if built_in else SAMPLING, precision=precision),
        seed=asked.seed,
        folder=room.folder,
        cache=room.cache,
        say=room.say,
    )


def _probes(asked: Request, concept: Concept) -> list[Probe]:
    """Where no vocabulary serves: the target in its own templates, the names to keep in theirs, nearest first."""
    templates = TEMPLATES[concept.kind]
    found = [Probe(fill([templates[i % len(templates)]], concept.name)[0], concept.name, "target") for i in range(8)]
    ordered = _nearest_first(asked.family, concept.name, list(asked.preserve))
    half = (len(ordered) + 1) // 2
    for names, role in ((ordered[:half], "related"), (ordered[half:], "unrelated")):
        found += [Probe(fill(["a picture of {}"], n)[0], n, role) for n in names[:MOST_PROBES]]  # type: ignore[arg-type]
    return found


def _nearest_first(family: Family, name: str, others: Sequence[str]) -> list[str]:
    """Names by their distance to `name` in the text encoder's space."""
    if not others:
        return []
    states = pooled(family, [name, *others])
    order = torch.cosine_similarity(states[:1], states[1:]).argsort(descending=True, stable=True)
    return [others[i] for i in order.tolist()]
