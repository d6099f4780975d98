"""Updating: add concepts to a closed-form edit, or take some out, by solving for the whole edit again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from excise.concepts.concept import Concept, as_concepts, listed, normalise_name
from excise.edits.bases import check_base
from excise.edits.edit import Edit
from excise.edits.hooks import refuse_hooks
from excise.edits.record import EditRecord
from excise.erasing.erase import Erasure, Naming, Origin, make_edit
from excise.errors import ConceptError
from excise.families.load import as_family
from excise.methods import METHODS
from excise.methods.base import Context


def update(
    model: Any,
    edit: Edit,
    add: Sequence[str | Concept] = (),
    drop: Sequence[str] = (),
    *,
    states: Path | None = None,
) -> Edit:
    """Make a closed-form edit again with other concepts, and everything else as its record says.

    With `states`, a folder that earlier calls filled, only new prompts are encoded.

    Args:
        model: the model that the edit was made for.
        add: concepts to append.
        drop: names of concepts to take out.
        states: folder of text states to use and fill.

    Raises:
        ConceptError: a concept to drop is not in the edit, one to add is, none would remain, or the edit is not of a
            single closed form.
        WrongBaseError: the edit was made for another model.
        ModelError: the edit has hooks.
    """
    return make_update(model, edit, add, drop, states).edit


def make_update(
    model: Any, edit: Edit, add: Sequence[str | Concept], drop: Sequence[str], states: Path | None = None
) -> Erasure:
    """Update, and also return the durations of the work. `update` explains the arguments."""
    refuse_hooks(edit.hooks, edit.record, "an update solves for weights again")
    family = as_family(model)
    check_base(edit, family)
    record = edit.record
    check_updatable(record)
    return make_edit(
        family,
        updated_concepts(record, add, drop),
        record.method,
        record.settings,
        Naming(record.preserve, record.vocabulary),
        Origin(record.base.model, record.base.revision),
        record.seed,
        Context(states=states),
    )


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


def updated_concepts(record: EditRecord, add: Sequence[str | Concept], drop: Sequence[str]) -> list[Concept]:
    """The concepts of an edit after an update, in order: those that remain, then the new ones.

    Raises:
        ConceptError: a concept to drop is not in the edit, one to add is, or none would remain.
    """
    present = [c.concept() for c in record.concepts]
    present_names = {normalise_name(c.name) for c in present}
    dropped_names = {normalise_name(name) for name in drop}
    for name in drop:
        if normalise_name(name) not in present_names:
            raise ConceptError(
                f"'{name}' is not in this edit, which erases {listed([c.name for c in present], 8)}; name one of these."
            )
    added = as_concepts(add) if add else []
    for concept in added:
        if normalise_name(concept.name) in present_names - dropped_names:
            raise ConceptError(f"'{concept.name}' is in this edit already; take it out of what is to be added.")
    concepts = [c for c in present if normalise_name(c.name) not in dropped_names] + added
    if not concepts:
        raise ConceptError("nothing would be left in this edit; remove it from the model instead.")
    return concepts
