"""From a request to what trained methods take: candidates, probes, a judge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from excise.concepts.candidates import CANDIDATES
from excise.concepts.concept import TEMPLATES, Concept, fill, normalise_name
from excise.edits.edit import applied_edits
from excise.families.built_in import is_built_in
from excise.families.text_space import nearest_first
from excise.judges.scored import check_knows
from excise.methods.base import Context, Request
from excise.support.selection import evenly
from excise.training.pictures import CANVAS_SAMPLING, SAMPLING
from excise.training.probes import Probe
from excise.training.problem import TrainingProblem
from excise.training.scorers import as_scorer

MOST_PROBES = 8  # of a role, where the caller's names are all there is

GONE_PROBES = 4  # of each concept that an edit in force erased


def training_problem(request: Request, context: Context, precision: str = "no", draw: int = 0) -> TrainingProblem:
    """A request as trained methods take it: candidates by the target's level, probes by distance to it.

    Args:
        precision: in which its pictures are drawn. draw: how many of them at once, 0 for as many as suit it.
    """
    words, built_in = request.words, is_built_in(request.family)
    candidates: dict[str, list[str]] = {}
    probes: dict[str, list[Probe]] = {}
    earlier = {t.name: t.concept() for edit, _ in applied_edits(request.family) for t in edit.record.concepts}
    erased_words = {normalise_name(w) for c in (*request.concepts, *earlier.values()) for w in c.words}
    for concept in request.concepts:
        siblings = [n for n in words.siblings(concept) if normalise_name(n) not in erased_words]
        everyday = [n for n in CANDIDATES[concept.kind] if normalise_name(n) not in erased_words]
        candidates[concept.name] = siblings or everyday
        own = _own_probes(request, concept, siblings)
        probes[concept.name] = [p for p in own if p.role == "target" or normalise_name(p.name) not in erased_words]
    requested = {normalise_name(c.name) for c in request.concepts}
    erased_probes = [
        Probe(p.prompt, p.name, "gone")
        for c in earlier.values()
        if normalise_name(c.name) not in requested
        for p in evenly([p for p in _own_probes(request, c, words.siblings(c)) if p.role == "target"], GONE_PROBES)
    ]
    probes[request.concepts[0].name] += erased_probes
    sampling = CANVAS_SAMPLING if built_in else SAMPLING
    scorer = as_scorer(context.judge, built_in, [*(c.name for c in request.concepts), *request.preserve])
    looked_for = dict.fromkeys(p.name for own in probes.values() for p in own)
    check_knows(scorer, list(looked_for), ", and a training looks at what is kept as well")
    return TrainingProblem(
        family=request.family,
        concepts=request.concepts,
        templates=words.templates,
        retain=request.retain,
        preserve=request.preserve,
        candidates=candidates,
        probes=probes,
        scorer=scorer,
        sampling=replace(sampling, precision=precision, batch=draw or sampling.batch, say=context.say),
        seed=request.seed,
        folder=context.folder,
        cache=context.cache,
        say=context.say,
        charts=context.charts,
    )


def _own_probes(request: Request, concept: Concept, siblings: Sequence[str]) -> list[Probe]:
    """The vocabulary's probes of a concept, or what its templates make of it and of the names to keep."""
    listed = (
        request.words.probes(concept.name, nearest_first(request.family, [concept.name], siblings)) if siblings else ()
    )
    return [Probe(*p) for p in listed] or _probes(request, concept)  # type: ignore[arg-type]


def _probes(request: Request, concept: Concept) -> list[Probe]:
    """Where no vocabulary serves: the target in its own templates, the names to keep in theirs, nearest first."""
    templates = TEMPLATES[concept.kind]
    probes = [Probe(fill([templates[i % len(templates)]], concept.name)[0], concept.name, "target") for i in range(8)]
    ordered = nearest_first(request.family, [concept.name], request.preserve)
    half = (len(ordered) + 1) // 2
    for names, role in ((ordered[:half], "related"), (ordered[half:], "unrelated")):
        probes += [Probe(fill(["a picture of {}"], n)[0], n, role) for n in names[:MOST_PROBES]]  # type: ignore[arg-type]
    return probes
