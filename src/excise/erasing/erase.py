"""The main job: concepts in, an edit out."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
    retain_prompts,
    same,
    with_anchor,
)
from excise.concepts.vocabulary import Vocabulary, guess_kind, naming_vocabulary, vocabulary_of
from excise.edits.bases import base_of
from excise.edits.edit import Edit
from excise.edits.record import VERSIONED, EditRecord, Target
from excise.errors import ConceptError, ExciseWarning
from excise.families.base import Family
from excise.families.built_in import is_built_in
from excise.families.load import as_family
from excise.methods import load_method
from excise.methods.base import Context, Request
from excise.methods.closed_form.base import program_prompts
from excise.methods.closed_form.config import MethodConfig
from excise.support.settings import OFFICIAL, Settings, configure


@dataclass(frozen=True)
class Erasure:
    """An edit, with what the record does not hold.

    Attributes:
        edit: the edit.
        pictures: pictures for the report, by the name of the chart and of the row.
        seconds: durations by stage: `encode` and `solve`, or `train`.
    """

    edit: Edit
    pictures: Mapping[str, Mapping[str, Sequence[Image.Image]]]
    seconds: Mapping[str, float]


@dataclass(frozen=True)
class Naming:
    """How the concepts of a request are understood.

    Attributes:
        preserve: names to keep, beside those of the vocabulary.
        vocabulary: see `erase`.
        kind, anchor: of concepts that bring none of their own; see `erase`.
    """

    preserve: Sequence[str] = ()
    vocabulary: str | None = "auto"
    kind: str | None = None
    anchor: str | None = None


@dataclass(frozen=True)
class Origin:
    """The name and the revision of a model for the record; by default the pipeline's own name."""

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

    With edits applied the new one belongs on top of them: a closed form starts from the original weights and adds to
    whatever else is applied, a trained method goes on from the model as it is and says so in the record ("after").

    Args:
        model: a pipeline, or what `excise.load` returned.
        concepts: names, or `Concept`s.
        method: see `excise methods`.
        preserve: names to keep, beside those of the vocabulary.
        vocabulary: prompts to keep: "ordinary" (a list of common names of the concepts' kinds), "canvas" or
            "canvas-strict" (for the built-in models), None or "none", or "auto": none where an official preset is asked
            for, else canvas on a built-in model, ordinary elsewhere.
        kind: the kind of concepts given as names: object, instance, style, person or explicit. By default Canvas names
            have their own kind on the built-in models, and every other name is an object.
        anchor: what concepts without their own anchor are read as ("": nothing); None takes the method's preset.
        seed: the random seed of the method.
        model_name, revision: for the record; by default the pipeline's own name.
        context: a judge, folders and progress, see `excise.methods.base.Context`.
        settings: the method's own, see `excise methods NAME`; `preset` picks another kind's preset.

    Raises:
        ConceptError, SettingError, UnknownNameError, ModelError: bad input, in one sentence.

    >>> edit = erase(pipe, ["cat"], method="speed", preserve=["dog"])  # doctest: +SKIP
    """
    naming, origin = Naming(preserve, vocabulary, kind, anchor), Origin(model_name, revision)
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
    """As `erase`, which explains the arguments; the pictures and the durations of the work are returned as well."""
    naming, origin = naming or Naming(), origin or Origin()
    family = as_family(model)
    implementation = load_method(method)
    if naming.anchor is not None:
        settings = {**settings, "anchor": naming.anchor}
    request, config = _checked(family, as_concepts(concepts, naming.kind), method, settings, naming, seed)
    # Computed first, for it refuses weights that cannot be read.
    name = origin.model_name or str(family.pipe.config.get("_name_or_path") or "unnamed pipeline")
    base = base_of(family, name, origin.revision)
    # A caller who draws in half precision must not get an edit made from half-precise text states. Without a cache, for
    # autocast keeps its casts of weights until its outermost context ends, and training in half precision moves them.
    with torch.autocast(family.device.type, enabled=False, cache_enabled=False):
        made = implementation.make(request, config, context or Context())
    record = EditRecord(
        excise=version("excise"),
        base=base,
        method=method,
        settings=config.model_dump(mode="json"),
        concepts=tuple(
            Target(name=c.name, kind=c.kind, anchor=c.anchor or "", synonyms=c.synonyms) for c in request.concepts
        ),
        preserve=tuple(request.preserve),
        vocabulary=request.words.name,
        seed=seed,
        versions={p: version(p) for p in VERSIONED},
        measured=dict(made.evidence),
    )
    edit = Edit(record, made.weights.text_maps, dict(made.weights.modules or {}))
    return Erasure(edit, made.pictures, made.seconds)


def _checked(
    family: Family,
    concepts: Sequence[Concept],
    method: str,
    settings: Mapping[str, Any],
    naming: Naming,
    seed: int,
) -> tuple[Request, Settings]:
    """The request with kinds, anchors and retained prompts, and the settings of the method for it."""
    names_from = naming_vocabulary(naming.vocabulary, family)
    concepts = [guess_kind(c, naming.kind, names_from) for c in concepts]
    check_preserve(concepts, naming.preserve)
    config_class = load_method(method).Config
    preset = "canvas" if is_built_in(family) else None
    config = configure(config_class, method, settings, concepts[0].kind, default=preset)
    vocabulary = naming.vocabulary
    if vocabulary == "auto" and str(settings.get("preset", "")).startswith(OFFICIAL):
        vocabulary = None  # a program keeps what its user names
    anchored = [with_anchor(c, config.anchor) for c in concepts]
    words = vocabulary_of(vocabulary, family, anchored, bare=program_prompts(config) is not None)
    by_kind: dict[str, Settings] = {}
    if not preset or "preset" in settings:
        by_kind = _by_kind(config_class, method, settings, concepts, config)
    anchors = {kind: c.anchor for kind, c in by_kind.items()}
    concepts = [with_anchor(c, anchors.get(c.kind, config.anchor) or words.anchors.get(c.name, "")) for c in concepts]
    _check_anchors(concepts)
    retain = _retained(concepts, naming.preserve, words, config)
    return Request(family, concepts, retain, naming.preserve, words, seed), config


def _retained(concepts: Sequence[Concept], preserve: Sequence[str], words: Vocabulary, config: Settings) -> list[str]:
    """The prompts to keep: names in the templates of every kind that is erased, or bare; the vocabulary's; nothing."""
    kinds = dict.fromkeys(c.kind for c in concepts)
    in_templates = [p for kind in kinds for p in retain_prompts(preserve, TEMPLATES[kind])]
    kept = in_templates if program_prompts(config) is None else preserve
    empty = [""] if isinstance(config, MethodConfig) and config.retain_empty else []
    return list(dict.fromkeys([*kept, *words.prompts, *empty]))


def _by_kind(
    config_class: type[Settings],
    method: str,
    settings: Mapping[str, Any],
    concepts: Sequence[Concept],
    config: Settings,
) -> dict[str, Settings]:
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
