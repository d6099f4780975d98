"""Concepts added to an edit, or taken out of it: the same edit as if it had been made so from the start."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from excise.concepts.concept import Concept, as_concepts, listed, same
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
    """Make an edit of a closed form again with other concepts, everything else as its record says.

    With `states`, a folder that earlier calls filled, only new prompts are encoded: what is left is a solve.

    Args:
        model: the one the edit was made for.
        add: concepts, put after those it has. drop: names of those to take out.
        states: folder of text states to use and fill.

    Raises:
        ConceptError: a concept to drop is not in it, one to add is, nothing would be left, or its method trains.
        WrongBaseError: it was made for another model.
        ModelError: it has hooks.
    """
    return updated(model, edit, add, drop, states).edit


def updated(
    model: Any, edit: Edit, add: Sequence[str | Concept], drop: Sequence[str], states: Path | None = None
) -> Erasure:
    """As `update`, which explains the arguments; the durations of the work are returned as well."""
    refuse_hooks(edit.hooks, edit.record, "an update solves for weights again")
    family = as_family(model)
    check_base(edit, family)
    record = edit.record
    check_updatable(record)
    concepts = changed(record, add, drop)
    return make_edit(
        family,
        concepts,
        record.method,
        record.settings,
        Naming(record.preserve, record.vocabulary),
        Origin(record.base.model, record.base.revision),
        record.seed,
        Context(states=states),
    )


def check_updatable(record: EditRecord) -> None:
    """Refuse what is no single closed-form edit.

    Raises:
        ConceptError: it was stacked or scaled, or its method trains.
    """
    if record.stack:
        raise ConceptError("this edit is a stack of several; update those it was made of and stack them again.")
    if "strength" in record.settings:
        raise ConceptError("this edit was scaled; update the one it was scaled from, and scale the result.")
    if record.method not in METHODS or METHODS.record(record.method).shape != "closed-form":
        raise ConceptError(
            f"this edit was made by {record.method}, which trains; only closed forms can be made again with other "
            "concepts. Add one on top of it: excise erase --edit FILE --concept C"
        )


def changed(record: EditRecord, add: Sequence[str | Concept], drop: Sequence[str]) -> list[Concept]:
    """The concepts of an edit after a change, in order: those that stay, then the new ones.

    Raises:
        ConceptError: a concept to drop is not there, one to add is, or none would be left.
    """
    there = [c.concept() for c in record.concepts]
    known = {same(c.name) for c in there}
    gone = {same(name) for name in drop}
    for name in drop:
        if same(name) not in known:
            raise ConceptError(
                f"'{name}' is not in this edit, which erases {listed([c.name for c in there], 8)}; name one of these."
            )
    new = as_concepts(add) if add else []
    for concept in new:
        if same(concept.name) in known - gone:
            raise ConceptError(f"'{concept.name}' is in this edit already; take it out of what is to be added.")
    left = [c for c in there if same(c.name) not in gone] + new
    if not left:
        raise ConceptError("nothing would be left in this edit; remove it from the model instead.")
    return left
