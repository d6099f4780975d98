"""The main job: concepts in, an edit out."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from excise.concepts.concept import (
    PROGRAM_PROMPTS,
    TEMPLATES,
    Concept,
    as_concepts,
    check_preserve,
    listed,
    retain_prompts,
    same,
    with_anchor,
)
from excise.concepts.vocabulary import Vocabulary, guess_kind, speaks_canvas, vocabulary_of
from excise.edits.apply import original_weights
from excise.edits.bases import base_of
from excise.edits.edit import Edit, applied_edits
from excise.edits.record import VERSIONED, EditRecord, Target
from excise.erasing.request import Request
from excise.errors import ConceptError, ExciseWarning, TrainingError
from excise.families.built_in import is_built_in
from excise.families.load import as_family
from excise.methods import METHODS
from excise.methods.closed_form.base import MethodConfig, Solution, TextProblem, joined, widened
from excise.methods.closed_form.encoder_problem import EncoderProblem
from excise.methods.closed_form.hardening import hardened
from excise.methods.closed_form.text_problem import encode, pooled_problem, token_problem
from excise.support.settings import OFFICIAL, configure

if TYPE_CHECKING:
    from excise.training.problem import Room


def erase(
    model: Any,
    concepts: Sequence[str | Concept],
    method: str = "speed",
    *,
    preserve: Sequence[str] = (),
    vocabulary: str | None = "auto",
    kind: str | None = None,
    anchor: str | None = None,
    seed: int = 0,
    model_name: str | None = None,
    revision: str | None = None,
    room: Room | None = None,
    states: Path | None = None,
    timings: dict[str, float] | None = None,
    **settings: Any,
) -> Edit:
    """Remove concepts from a model. The model is not changed; apply the edit to it.

    With edits in force the new one belongs on top of them: a closed form starts from the original weights and adds to
    whatever else is applied, a trained method goes on from the model as it is and says so in the record ("after").

    Args:
        model: a pipeline, or what `excise.load` returned.
        concepts: names, or `Concept`s.
        method: see `excise methods`.
        preserve: names to keep, beside those of the vocabulary.
        vocabulary: prompts to keep: "ordinary" (a list of common names of the concepts' kinds), "canvas" or
            "canvas-strict" (for the built-in models), None or "none", or "auto": none where an official preset is asked
            for, else canvas on a built-in model, ordinary elsewhere.
        kind: of concepts given as names: object, instance, style, person or explicit. Found out on Canvas, else object.
        anchor: what concepts without their own anchor are read as ("": nothing); None takes the method's preset.
        seed: of everything random in the method.
        model_name, revision: for the record; by default the pipeline's own name.
        room: what a trained method has around it: a judge, a folder for checkpoints, progress.
        states: folder that keeps the text states of a closed form, so that nothing is encoded twice.
        timings: receives the seconds of `encode` and `solve`, or of `train`.
        settings: the method's own, see `excise methods NAME`; `preset` picks another kind's preset.

    Raises:
        ConceptError, SettingError, UnknownNameError, ModelError: bad input, in one sentence.

    >>> edit = erase(pipe, ["cat"], method="speed", preserve=["dog"])  # doctest: +SKIP
    """
    family = as_family(model)
    canvas = speaks_canvas(vocabulary, family)
    found = [guess_kind(c, kind, canvas) for c in as_concepts(concepts, kind)]
    check_preserve(found, preserve)
    method_class = METHODS.load(method)
    if anchor is not None:
        settings["anchor"] = anchor
    preset = "canvas" if is_built_in(family) else None
    config = configure(method_class.Config, method, settings, found[0].kind, default=preset)
    name = model_name or str(family.pipe.config.get("_name_or_path") or "unnamed pipeline")
    if vocabulary == "auto" and str(settings.get("preset", "")).startswith(OFFICIAL):
        vocabulary = None  # a program keeps what its user names
    words = vocabulary_of(
        vocabulary, family, [with_anchor(c, config.anchor) for c in found], bare=_program(config) is not None
    )
    own = {} if preset and "preset" not in settings else _by_kind(method_class.Config, method, settings, found, config)
    anchors = {kind_: c.anchor for kind_, c in own.items()}
    found = [with_anchor(c, anchors.get(c.kind, config.anchor) or words.anchors.get(c.name, "")) for c in found]
    _check_anchors(found)
    retain = _retained(found, preserve, words, config)
    base = base_of(family, name, revision)  # first, for it refuses what cannot be read
    request = Request(family, found, retain, preserve, words, seed, states)
    # A caller who draws in half precision must not get an edit made from half-precise text states. Without a cache, for
    # autocast keeps its casts of weights until its outermost context ends, and training in half precision moves them.
    with torch.autocast(family.device.type, enabled=False, cache_enabled=False):
        make = _trained if hasattr(method_class, "train") else _solved
        solution, measured, spent = make(method_class, config, request, room)
    if timings is not None:
        timings |= spent
    return Edit(
        EditRecord(
            excise=version("excise"),
            base=base,
            method=method,
            settings=config.model_dump(mode="json"),
            concepts=tuple(Target(name=c.name, kind=c.kind, anchor=c.anchor or "", synonyms=c.synonyms) for c in found),
            preserve=tuple(preserve),
            vocabulary=words.name,
            seed=seed,
            versions={p: version(p) for p in VERSIONED},
            measured=measured,
        ),
        solution.text_maps,
        dict(solution.modules or {}),
    )


def _retained(concepts: Sequence[Concept], preserve: Sequence[str], words: Vocabulary, config: Any) -> list[str]:
    """The prompts to keep: names in the templates of every kind that is erased, or bare; the vocabulary's; nothing."""
    kinds = dict.fromkeys(c.kind for c in concepts)
    in_templates = [p for kind in kinds for p in retain_prompts(preserve, TEMPLATES[kind])]
    kept = in_templates if _program(config) is None else preserve
    empty = [""] if isinstance(config, MethodConfig) and config.retain_empty else []
    return list(dict.fromkeys([*kept, *words.prompts, *empty]))


def _program(config: Any) -> Mapping[str, Sequence[str]] | None:
    """A program's own prompts by kind, where a closed form looks at targets in those; names to keep then stand bare."""
    return PROGRAM_PROMPTS.get(config.prompts) if isinstance(config, MethodConfig) else None


def _solved(
    method: Any, config: Any, asked: Request, room: Room | None
) -> tuple[Solution, dict[str, Any], dict[str, float]]:
    """A closed form: encode, then solve for the text encoder, or for keys, values and the map of the pooled prompt."""
    began = time.perf_counter()
    family = asked.family
    if not hasattr(method, "solve_encoder"):
        _warn_of_width(len(asked.concepts), family.text_width)
    templates = _program(config) or asked.words.templates
    encoded = encode(family, asked.concepts, asked.retain, templates, asked.states)
    at_once = time.perf_counter()
    if hasattr(method, "solve_encoder"):
        solution = method.solve_encoder(EncoderProblem(family, encoded), config)
        return solution, {}, {"encode": at_once - began, "solve": time.perf_counter() - at_once}
    generator = torch.Generator().manual_seed(asked.seed)
    paths = [p.path for p in family.projections(config.params)]
    weights = original_weights(family, paths)

    def solve(problem: TextProblem) -> Solution:
        found: Solution = method.solve(problem, weights, config, generator.manual_seed(asked.seed))
        return found

    solution, restored = hardened(solve, token_problem(encoded, config), weights, config.robust)
    pooled = pooled_problem(encoded) if config.pooled else None
    if pooled is not None:
        maps = original_weights(family, [p.path for p in family.projections("p")])
        width = pooled.targets.shape[1]
        reading = {path: weight[:, :width] for path, weight in maps.items()}
        theirs = method.solve(pooled, reading, config, generator)
        solution = joined(solution, widened(theirs, {path: w.shape[1] for path, w in maps.items()}))
    return (
        solution,
        {"restored": restored} if restored else {},
        {"encode": at_once - began, "solve": time.perf_counter() - at_once},
    )


def _warn_of_width(concepts: int, width: int) -> None:
    """Say so where more concepts are erased than text states can tell apart."""
    if concepts > width:
        warnings.warn(
            f"{concepts} concepts are more than the {width} directions of this model's text states, so whatever is "
            "kept moves with them; erase fewer, or edit the text encoder instead (--method emcid).",
            ExciseWarning,
            stacklevel=2,
        )


def _trained(
    method: Any, config: Any, asked: Request, room: Room | None
) -> tuple[Solution, dict[str, Any], dict[str, float]]:
    """A trained method, with what it measured on the way."""
    from excise.erasing.training_request import training_problem
    from excise.training.loop import check_available
    from excise.training.problem import Room

    check_available(config.precision, config.tracker)
    asked.family.check_trainable()
    began = time.perf_counter()
    room = room or Room()
    problem = training_problem(asked, room, is_built_in(asked.family), config.precision, config.draw)
    try:
        trained = method.train(problem, config)
    except torch.OutOfMemoryError as error:
        raise TrainingError(
            "the device ran out of memory while pictures were drawn or looked at; use "
            "--set draw=1, load the model with --dtype float16, or use a smaller judge."
        ) from error
    room.pictures.update(trained.pictures)
    before = applied_edits(asked.family)
    evidence = {**trained.evidence, **({"after": [_named(*layer) for layer in before]} if before else {})}
    return Solution(modules=trained.modules), evidence, {"train": time.perf_counter() - began}


def _named(edit: Edit, strength: float) -> str:
    """An edit in a word: its method and concepts."""
    names = ", ".join(c.name for c in edit.record.concepts)
    strength *= edit.strength
    return f"{edit.record.method}: {names}" + ("" if strength == 1 else f" at strength {strength:g}")


def _by_kind(
    config_class: Any, method: str, settings: Mapping[str, Any], concepts: Sequence[Concept], config: Any
) -> dict[str, Any]:
    """The settings that each kind of concept would have by itself; says so where the edit cannot have them all."""
    own = {c.kind: configure(config_class, method, settings, c.kind) for c in concepts}
    other = [kind for kind, c in own.items() if c.model_copy(update={"anchor": config.anchor}) != config]
    if other:
        warnings.warn(
            f"concepts of kind {listed(other)} have other settings of {method} than {concepts[0].kind}, whose settings "
            "are used for all; erase each kind by itself, or name a preset with --set preset=...",
            ExciseWarning,
            stacklevel=3,
        )
    return own


def _check_anchors(concepts: Sequence[Concept]) -> None:
    words = {same(w) for c in concepts for w in c.words}
    for concept in concepts:
        if concept.anchor and same(concept.anchor) in words:
            raise ConceptError(
                f"the anchor '{concept.anchor}' of '{concept.name}' is itself to be erased; choose another --anchor."
            )
