"""Updating: add concepts to a closed-form edit, or take some out, by solving for the whole edit again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from excise.concepts.concept import Concept, as_concepts, listed, normalise_name
from excise.concepts.vocabulary import guess_kind, naming_vocabulary
from excise.edits.bases import check_base
from excise.edits.edit import Edit
from excise.edits.hooks import refuse_hooks
from excise.edits.record import EditRecord, Given
from excise.erasing.erase import Erasure, Naming, Origin, make_edit
from excise.errors import ConceptError
from excise.families.base import Family
from excise.families.load import as_family
from excise.families.usual import usual_for
from excise.methods import METHODS, load_method
from excise.methods.base import Context
from excise.support.progress import Report, silent
from excise.support.settings import configure, idle_settings


def update(
    model: Any,
    edit: Edit,
    add: Sequence[str | Concept] = (),
    drop: Sequence[str] = (),
    *,
    kind: str | None = None,
    states: Path | None = None,
) -> Edit:
    """Make a closed-form edit again with other concepts, and everything else as its record says.

    With `states`, a folder that earlier calls filled, only new prompts are encoded.

    Args:
        model: the model that the edit was made for.
        add: concepts to append.
        drop: names of concepts to take out.
        kind: kind of concepts that are given as names, as `erase` takes it.
        states: folder of text states to use and fill.

    Raises:
        ConceptError: a concept to drop is not in the edit, one to add is, none would remain, or the edit is not of a
            single closed form.
        WrongBaseError: the edit was made for another model.
        ModelError: the edit has hooks.
    """
    return make_update(model, edit, as_concepts(add, kind) if add else [], drop, kind, states).edit


def make_update(
    model: Any,
    edit: Edit,
    add: Sequence[Concept],
    drop: Sequence[str],
    kind: str | None = None,
    states: Path | None = None,
    say: Report = silent,
) -> Erasure:
    """Update, and also return the durations of the work. `update` explains the arguments; `say` receives progress."""
    refuse_hooks(edit.hooks, edit.record, "an update solves for weights again")
    family = as_family(model)
    check_base(edit, family)
    record = edit.record
    check_updatable(record)
    names_from = naming_vocabulary(record.vocabulary, family)
    given = record.given or _inferred(record, family)
    before, names_from = {c.name for c in record.concepts}, naming_vocabulary(record.vocabulary, family)
    concepts = [
        replace(c, anchor=given.anchors.get(c.name)) if c.name in before else guess_kind(c, kind, names_from)
        for c in updated_concepts(record, add, drop)
    ]
    # A version that took settings which nothing reads may have written some down.
    config, usual = load_method(record.method).Config, usual_for(family)
    idle = idle_settings(config, record.method, given.settings, concepts[0].kind, usual)
    return make_edit(
        family,
        concepts,
        record.method,
        {name: value for name, value in given.settings.items() if name not in idle},
        Naming(record.preserve, record.vocabulary, kind=concepts[0].kind),  # no kind is left to be guessed
        Origin(record.base.model, record.base.revision),
        record.seed,
        Context(states=states, say=say),
    )


def _inferred(record: EditRecord, family: Family) -> Given:
    """What the caller of a version that did not write it chose: all that differs from the presets of the kinds."""
    config, for_model = load_method(record.method).Config, usual_for(family)

    def preset(kind: str) -> dict[str, Any]:
        return configure(config, record.method, {}, kind, for_model).model_dump(mode="json")

    usual = preset(record.concepts[0].kind)
    settings = {name: value for name, value in record.settings.items() if name not in usual or usual[name] != value}
    anchors = {
        c.name: c.anchor for c in record.concepts if c.anchor not in (settings.get("anchor"), preset(c.kind)["anchor"])
    }
    return Given(settings=settings, anchors=anchors)


def check_updatable(record: EditRecord) -> None:
    """Refuse an edit that is not of a single closed form.

    Raises:
        ConceptError: the edit was stacked or scaled, or its method is unknown or no closed form.
    """
    if record.stack:
        raise ConceptError("this edit is a stack of several; update those it was made of and stack them again.")
    if record.is_scaled:
        raise ConceptError("this edit was scaled; update the one it was scaled from, and scale the result.")
    shape = METHODS.record(record.method).shape if record.method in METHODS else "not installed"
    if shape != "closed-form":
        raise ConceptError(
            f"this edit was made by {record.method} ({shape}); only closed forms can be made again with other "
            "concepts. Add one on top of it: excise erase --edit FILE --concept C"
        )


def updated_concepts(record: EditRecord, add: Sequence[Concept], drop: Sequence[str]) -> list[Concept]:
    """The concepts of an edit after an update, in order: those that remain, then the new ones.

    Raises:
        ConceptError: a concept to drop is not in the edit, one to add is, or is preserved, or none would remain.
    """
    present = [c.concept() for c in record.concepts]
    present_names = {normalise_name(c.name) for c in present}
    dropped_names = {normalise_name(name) for name in drop}
    for name in drop:
        if normalise_name(name) not in present_names:
            raise ConceptError(
                f"'{name}' is not in this edit, which erases {listed([c.name for c in present], 8)}; name one of these."
            )
    for concept in add:
        if normalise_name(concept.name) in present_names - dropped_names:
            raise ConceptError(f"'{concept.name}' is in this edit already; take it out of what is to be added.")
    kept = {normalise_name(name) for name in record.preserve}
    for word in (word for concept in add for word in concept.words):
        if normalise_name(word) in kept:
            raise ConceptError(
                f"'{word}' is among the names that this edit preserves, and an update preserves the same names; make "
                "an edit anew in which it is not preserved: excise erase"
            )
    concepts = [c for c in present if normalise_name(c.name) not in dropped_names] + [*add]
    if not concepts:
        raise ConceptError("nothing would be left in this edit; remove it from the model instead.")
    return concepts
