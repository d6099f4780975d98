"""What a trained method is given, and what it gives back."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from excise.concept import TEMPLATES, Concept, fill, same
from excise.edit import Delta, in_force
from excise.families.base import Family
from excise.selection import evenly
from excise.training.distractors import CANDIDATES, pooled
from excise.training.pictures import Sampling
from excise.training.probes import Probe
from excise.training.scorers import Scorer, as_scorer

if TYPE_CHECKING:
    from excise.erasing import Request

CANVAS_SAMPLING = Sampling(12, 4.0, batch=40)
SAMPLING = Sampling(25, 7.0)
MOST_PROBES = 8  # of a role, where the caller's names are all there is
GONE_PROBES = 4  # of each concept that an edit in force erased

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


def digest(what: Any) -> str:
    """SHA-256 of anything JSON can hold."""
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Trained:
    """The deltas of a trained method, what it measured on the way, and pictures of that for the report."""

    modules: Mapping[str, Delta]
    evidence: Mapping[str, Any] = field(default_factory=dict)
    pictures: Mapping[str, Any] = field(default_factory=dict)


def training_problem(
    asked: Request, room: Room, built_in: bool, precision: str = "no", draw: int = 0
) -> TrainingProblem:
    """A request as trained methods take it: candidates by the target's level, probes by distance to it.

    Args:
        precision: in which its pictures are drawn. draw: how many of them at once, 0 for as many as suit it.
    """
    words = asked.words
    candidates: dict[str, list[str]] = {}
    probes: dict[str, list[Probe]] = {}
    earlier = {t.name: t.concept() for edit, _ in in_force(asked.family) for t in edit.record.concepts}
    going = {same(w) for c in (*asked.concepts, *earlier.values()) for w in c.words}
    for concept in asked.concepts:
        siblings = [n for n in words.siblings(concept) if same(n) not in going]
        candidates[concept.name] = siblings or [n for n in CANDIDATES[concept.kind] if same(n) not in going]
        own = _own_probes(asked, concept, siblings)
        probes[concept.name] = [p for p in own if p.role == "target" or same(p.name) not in going]
    asked_for = {same(c.name) for c in asked.concepts}
    gone = [
        Probe(p.prompt, p.name, "gone")
        for c in earlier.values()
        if same(c.name) not in asked_for
        for p in evenly([p for p in _own_probes(asked, c, words.siblings(c)) if p.role == "target"], GONE_PROBES)
    ]
    probes[asked.concepts[0].name] += gone
    sampling = CANVAS_SAMPLING if built_in else SAMPLING
    return TrainingProblem(
        family=asked.family,
        concepts=asked.concepts,
        templates=words.templates,
        retain=asked.retain,
        preserve=asked.preserve,
        candidates=candidates,
        probes=probes,
        scorer=as_scorer(room.judge, built_in, [*(c.name for c in asked.concepts), *asked.preserve]),
        sampling=replace(sampling, precision=precision, batch=draw or sampling.batch),
        seed=asked.seed,
        folder=room.folder,
        cache=room.cache,
        say=room.say,
        charts=room.charts,
    )


def _own_probes(asked: Request, concept: Concept, siblings: Sequence[str]) -> list[Probe]:
    """The vocabulary's probes of a concept, or what its templates make of it and of the names to keep."""
    named = asked.words.probes(concept.name, nearest_first(asked.family, [concept.name], siblings)) if siblings else ()
    return [Probe(*p) for p in named] or _probes(asked, concept)  # type: ignore[arg-type]


def _probes(asked: Request, concept: Concept) -> list[Probe]:
    """Where no vocabulary serves: the target in its own templates, the names to keep in theirs, nearest first."""
    templates = TEMPLATES[concept.kind]
    found = [Probe(fill([templates[i % len(templates)]], concept.name)[0], concept.name, "target") for i in range(8)]
    ordered = nearest_first(asked.family, [concept.name], asked.preserve)
    half = (len(ordered) + 1) // 2
    for names, role in ((ordered[:half], "related"), (ordered[half:], "unrelated")):
        found += [Probe(fill(["a picture of {}"], n)[0], n, role) for n in names[:MOST_PROBES]]  # type: ignore[arg-type]
    return found


def nearest_first(family: Family, names: Sequence[str], others: Sequence[str]) -> list[str]:
    """Other texts by their distance to the nearest of some names in the text encoder's space."""
    if not others:
        return []
    states = torch.nn.functional.normalize(pooled(family, [*names, *others]), dim=-1)
    cosine = states[len(names) :] @ states[: len(names)].T
    order = cosine.amax(1).argsort(descending=True, stable=True)
    return [others[i] for i in order.tolist()]
