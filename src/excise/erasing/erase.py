"""Erasing: concepts and a method in, an edit out."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any

import torch
from PIL import Image

from excise.concepts.concept import (
    TEMPLATES,
    Concept,
    as_concepts,
    check_preserve,
    listed,
    normalise_name,
    retain_prompts,
    with_anchor,
)
from excise.concepts.known_names import warn_of_names
from excise.concepts.vocabulary import (
    Vocabulary,
    anchors_in,
    guess_kind,
    naming_vocabulary_for,
    vocabulary_of,
)
from excise.edits.bases import base_of
from excise.edits.edit import Edit
from excise.edits.record import VERSIONED, Base, EditRecord, Given, Target
from excise.erasing.cautions import vocabulary_name, warn_of_nothing_kept, warn_of_pieces
from excise.errors import ConceptError, ExciseWarning
from excise.families.base import Family
from excise.families.built_in import is_built_in
from excise.families.load import as_family
from excise.families.model_names import UNNAMED
from excise.families.usual import usual_for
from excise.methods import load_method
from excise.methods.base import Context, Made, Request
from excise.methods.closed_form.base import program_prompts
from excise.methods.closed_form.config import MethodConfig
from excise.methods.fitting import check_fits
from excise.support.display import Card, Showing, charts, seconds_text
from excise.support.settings import Settings, Usual, configure, merge_settings


@dataclass(frozen=True, repr=False)
class Erasure(Showing):
    """An edit, with what its record does not hold.

    Attributes:
        edit: the edit.
        pictures: pictures for the report, by the name of the chart and of the row.
        seconds: durations by stage: `encode` and `solve`, or `train`.
    """

    edit: Edit
    pictures: Mapping[str, Mapping[str, Sequence[Image.Image]]]
    seconds: Mapping[str, float]

    def card(self) -> Card:
        """What the result shows of itself: its edit, the time, and the pictures of its charts."""
        edit = self.edit.card()
        facts = [*edit.facts[:3], ("took", seconds_text(self.seconds)), *edit.facts[3:]]
        return replace(edit, facts=facts, pictures=charts(self.pictures))


@dataclass(frozen=True)
class Naming:
    """How the names in a request are understood. `erase` explains the values.

    Attributes:
        preserve: names to preserve, in addition to those of the vocabulary.
        vocabulary: name of the vocabulary that supplies further prompts to retain.
        kind: kind of the concepts that are given as names; None guesses it.
        anchor: replacement of the concepts that have no anchor; None takes that of the method's preset.
    """

    preserve: Sequence[str] = ()
    vocabulary: str | None = "auto"
    kind: str | None = None
    anchor: str | None = None


@dataclass(frozen=True)
class Origin:
    """Where the model came from, for the record of the edit.

    Attributes:
        model_name: a hub id, folder, file or built-in name; None takes the name that the pipeline has.
        revision: branch, tag or commit of a hub model.
    """

    model_name: str | None = None
    revision: str | None = None


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
    context: Context | None = None,
    **settings: Any,
) -> Edit:
    """Remove concepts from a model. The model is not changed; apply the edit to it.

    Where other edits are applied to the model, the new edit belongs on top of them: a closed form starts from the
    original weights, and its edit adds to the others; a trained method continues from the model as it is, and names the
    others in the record ("after").

    Args:
        model: a pipeline, or what `excise.load` returned.
        concepts: names, or `Concept`s.
        method: see `excise methods`.
        preserve: names to preserve, in addition to those of the vocabulary.
        vocabulary: prompts to retain: "ordinary" (a list of common names of the concepts' kinds), "canvas" or
            "canvas-strict" (for the built-in models), None or "none", or "auto": none with an official preset,
            otherwise canvas on a built-in model and ordinary elsewhere.
        kind: the kind of concepts given as names: object, instance, style, person or explicit. By default Canvas names
            have their own kind on the built-in models, and every other name is an object.
        anchor: what replaces concepts that have no anchor ("": nothing); None takes the method's preset.
        seed: the random seed of the method.
        model_name, revision: for the record; by default the pipeline's own name.
        context: a judge, folders and progress, see `excise.methods.base.Context`.
        settings: the settings of the method, see `excise methods NAME`; `preset` picks another preset.

    Raises:
        ConceptError, SettingError, UnknownNameError, ModelError, PluginError: bad input, in one sentence.

    >>> edit = erase(pipe, ["cat"], method="speed", preserve=["dog"])  # doctest: +SKIP
    """
    naming, origin = Naming(preserve, vocabulary, kind, anchor), Origin(model_name, revision)
    concepts = as_concepts(concepts, kind)
    if not is_built_in(as_family(model)):
        warn_of_names(concepts, kind)
        warn_of_nothing_kept(preserve, vocabulary_name(vocabulary, settings))
    return make_edit(model, concepts, method, settings, naming, origin, seed, context).edit


def make_edit(
    model: Any,
    concepts: Sequence[str | Concept],
    method: str,
    settings: Mapping[str, Any],
    naming: Naming | None = None,
    origin: Origin | None = None,
    seed: int = 0,
    context: Context | None = None,
) -> Erasure:
    """Erase, and also return the pictures and the durations of the work. `erase` explains the arguments."""
    naming, origin = naming or Naming(), origin or Origin()
    family = as_family(model)
    implementation = load_method(method)
    check_fits(method, family.name, family.provides)
    family.check_encoders()
    if naming.anchor is not None:
        settings = {**settings, "anchor": naming.anchor}
    request, config = _prepared(family, as_concepts(concepts, naming.kind), method, settings, naming, seed)
    if not is_built_in(family):
        warn_of_pieces(request.concepts, family.tokenizers)
    # Before the method runs, because it refuses weights that cannot be read.
    name = origin.model_name or str(family.pipe.config.get("_name_or_path") or UNNAMED)
    base = base_of(family, name, origin.revision)
    # Autocast is off, so that a caller who draws in half precision does not get an edit from half-precise text states.
    # Its cache is off too: it keeps cast weights until the outermost context ends, and training changes the weights.
    with torch.autocast(family.device.type, enabled=False, cache_enabled=False):
        made = implementation.make(request, config, context or Context())
    given = _given(concepts, settings, config)
    record = _record(method, request, config, given, base, made)
    edit = Edit(record, made.weights.text_maps, dict(made.weights.modules or {}), made.hooks)
    return Erasure(edit, made.pictures, made.seconds)


def _given(concepts: Sequence[str | Concept], settings: Mapping[str, Any], config: Settings) -> Given:
    """What the caller chose of all that the record holds."""
    checked = config.model_dump(mode="json", include=set(settings))
    preset = {"preset": settings["preset"]} if "preset" in settings else {}
    named = [c for c in concepts if isinstance(c, Concept) and c.anchor is not None]
    return Given(settings={**checked, **preset}, anchors={c.name: str(c.anchor) for c in named})


def _record(method: str, request: Request, config: Settings, given: Given, base: Base, made: Made) -> EditRecord:
    """The record of an edit: everything that it was made from."""
    return EditRecord(
        excise=version("excise"),
        base=base,
        method=method,
        settings=config.model_dump(mode="json"),
        given=given,
        concepts=tuple(
            Target(name=c.name, kind=c.kind, anchor=c.anchor or "", synonyms=c.synonyms) for c in request.concepts
        ),
        preserve=tuple(request.preserve),
        vocabulary=request.words.name,
        seed=request.seed,
        versions={p: version(p) for p in VERSIONED},
        measured=dict(made.evidence),
        scale=1.0 if "strength" in type(config).model_fields else None,
    )


def _prepared(
    family: Family,
    concepts: Sequence[Concept],
    method: str,
    settings: Mapping[str, Any],
    naming: Naming,
    seed: int,
) -> tuple[Request, Settings]:
    """The request with every kind, anchor and retained prompt decided, and the checked settings of the method."""
    decided, config = decide(concepts, method, settings, naming, usual_for(family))
    bare = program_prompts(config) is not None
    # What is retained does not depend on the anchors of other kinds' presets.
    anchored = [
        replace(c, anchor=config.anchor) if given.anchor is None else c
        for given, c in zip(concepts, decided, strict=True)
    ]
    words = vocabulary_of(vocabulary_name(naming.vocabulary, settings), family, anchored, bare=bare)
    retain = _retained_prompts(decided, naming.preserve, words, config)
    return Request(family, decided, retain, naming.preserve, words, seed), config


def decide(
    concepts: Sequence[Concept], method: str, settings: Mapping[str, Any], naming: Naming, usual: Usual
) -> tuple[list[Concept], Settings]:
    """Return the concepts of a request with every kind and anchor decided, and the checked settings; needs no model.

    Args:
        usual: what the model makes usual (`usual_for`, `usual_of`); one without presets is not built in.

    Raises:
        ConceptError, SettingError, UnknownNameError: bad input, in one sentence.
    """
    built_in = bool(usual.presets)
    names_from = naming_vocabulary_for(naming.vocabulary, built_in)
    concepts = [guess_kind(c, naming.kind, names_from) for c in concepts]
    check_preserve(concepts, naming.preserve)
    config_class = load_method(method).Config
    config = configure(config_class, method, settings, concepts[0].kind, usual)
    one_preset = built_in and "preset" not in settings  # the preset of a built-in model is for every kind
    anchors = {} if one_preset else _anchors_by_kind(config_class, method, settings, concepts, config, usual)
    own = anchors_in(vocabulary_name(naming.vocabulary, settings), built_in)
    concepts = [with_anchor(c, anchors.get(c.kind, config.anchor) or own.get(c.name, "")) for c in concepts]
    _check_anchors(concepts)
    return concepts, config


def _retained_prompts(
    concepts: Sequence[Concept], preserve: Sequence[str], words: Vocabulary, config: Settings
) -> list[str]:
    """Prompts to retain: the preserved names, the vocabulary's prompts, and the empty prompt if the settings say so.

    The names stand in the templates of every kind that is erased, or alone where targets do.
    """
    kinds = dict.fromkeys(c.kind for c in concepts)
    in_templates = [p for kind in kinds for p in retain_prompts(preserve, TEMPLATES[kind])]
    names = in_templates if program_prompts(config) is None else preserve
    empty = [""] if isinstance(config, MethodConfig) and config.retain_empty else []
    return list(dict.fromkeys([*names, *words.prompts, *empty]))


def _anchors_by_kind(
    config_class: type[Settings],
    method: str,
    settings: Mapping[str, Any],
    concepts: Sequence[Concept],
    config: Settings,
    usual: Usual,
) -> dict[str, str]:
    """The anchor of each kind's own preset. Warns where another setting differs, because one edit has one of each."""
    by_kind = {c.kind: merge_settings(config_class, method, settings, c.kind, usual) for c in concepts}
    other = [kind for kind, c in by_kind.items() if c.model_copy(update={"anchor": config.anchor}) != config]
    if other:
        warnings.warn(
            f"concepts of kind {listed(other)} have other settings of {method} than {concepts[0].kind}, whose settings "
            "are used for all; erase each kind by itself, or name a preset with --set preset=...",
            ExciseWarning,
            stacklevel=3,
        )
    return {kind: c.anchor for kind, c in by_kind.items()}


def _check_anchors(concepts: Sequence[Concept]) -> None:
    """Refuse an anchor that is itself a target (raises ConceptError)."""
    targets = {normalise_name(w) for c in concepts for w in c.words}
    for concept in concepts:
        if concept.anchor and normalise_name(concept.anchor) in targets:
            raise ConceptError(
                f"the anchor '{concept.anchor}' of '{concept.name}' is itself to be erased; choose another --anchor."
            )
