"""Import the result of another erasure tool as an edit: denoisers, text encoders, adapters, folders, single files.

`importing.files` reads the file without running code in it, `importing.names` translates its names into those of the
base model. The edit is the change that an adapter adds to the base, or the difference of the weights from the base.
Every tensor must match a parameter of the base.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import Tensor

from excise.concepts.concept import Concept, as_concepts
from excise.concepts.vocabulary import guess_kind, naming_vocabulary
from excise.edits.bases import base_of, same_base
from excise.edits.deltas import Delta
from excise.edits.edit import Edit
from excise.edits.provenance import MARK, RECORD, parse
from excise.edits.record import VERSIONED, EditRecord, Target
from excise.errors import ConceptError, ExciseWarning, WrongBaseError
from excise.families.base import Family
from excise.families.load import as_family
from excise.families.model_names import UNNAMED
from excise.importing.adapters import is_adapter, read_adapter
from excise.importing.base_model import told_family
from excise.importing.files import read
from excise.importing.names import Names
from excise.importing.weights import differences, match_names, nearly_all_differ


@dataclass(frozen=True)
class _Change:
    """Deltas by path, the layout of the file that they come from, and warnings for the user."""

    modules: dict[str, Delta]
    layout: str
    notes: tuple[str, ...]


def import_edit(
    path: str | Path,
    model: Any,
    concepts: Sequence[str | Concept] = (),
    *,
    kind: str | None = None,
    model_name: str | None = None,
) -> Edit:
    """Read the result of another tool, or an export of this one, as an edit of the model that it was made from.

    Warns where the file lacks a part of the method, or where the base seems to be another model.

    Args:
        path: a file, or a folder of a pipeline, of its denoiser, or of its text encoder.
        model: the base; it is not changed.
        concepts: the concepts that the result erases, for the record. An export that carries the record of its edit
            needs none: on the model of the edit, the record is that of the edit again.
        kind: of the concepts given as plain names; by default it is guessed.
        model_name: name of the base, for the record.

    Raises:
        EditFileError: the file cannot be read, contains code, or contains changes that an edit cannot represent.
        WrongBaseError: names or shapes do not match the base, or nothing differs from it.
        ConceptError: no concepts are given, and the file carries no record.
    """
    path, family = Path(path), as_family(model)
    state, metadata = read(path)
    ours = _own_record(path, metadata)
    _check_made_for(path, ours, metadata, family)
    if concepts:
        ours = None  # the caller says what it erases
    elif ours is None:
        raise ConceptError(f"{path} does not say what it erases; name that with --concept.")
    given = [c.concept() for c in ours.concepts] if ours else as_concepts(concepts, kind)
    targets = [guess_kind(c, kind, naming_vocabulary(None, family)) for c in given]
    change = _change(path, state, metadata, family)
    if not change.modules:
        raise WrongBaseError(f"{path} holds nothing that differs from the base, so there is nothing to import.")
    for note in change.notes:
        warnings.warn(note, ExciseWarning, stacklevel=2)
    if ours is not None and ours.measured.get("ungated"):
        warnings.warn(
            f"{path.name} was exported without the gates of its edit, so it acts on every prompt; the edit file that "
            "it was made from has them.",
            ExciseWarning,
            stacklevel=2,
        )
    base = base_of(family, model_name or str(family.pipe.config.get("_name_or_path") or UNNAMED))
    if ours is not None and same_base(ours.base, base):
        measured = {**ours.measured, "imported": path.name}
        return Edit(ours.model_copy(update={"measured": measured}), (), change.modules)
    record = EditRecord(
        excise=version("excise"),
        base=base,
        method="imported",
        settings={"file": path.name, "layout": change.layout},
        concepts=tuple(Target(name=c.name, kind=c.kind, anchor=c.anchor or "", synonyms=c.synonyms) for c in targets),
        preserve=(),
        vocabulary=None,
        seed=0,
        versions={p: version(p) for p in VERSIONED},
        measured={},
    )
    return Edit(record, (), change.modules)


def _own_record(path: Path, metadata: Mapping[str, str]) -> EditRecord | None:
    """Return the record that an export carries, if it carries one that names concepts.

    Raises:
        EditFileError: it cannot be read.
    """
    mark = path / MARK
    text = mark.read_text(encoding="utf-8") if mark.is_file() else metadata.get(RECORD)
    record = parse(path, text, None)[0] if text else None
    return record if record is not None and record.concepts else None


def _check_made_for(path: Path, ours: EditRecord | None, metadata: Mapping[str, str], family: Family) -> None:
    """Refuse an export of an edit for another family; warn where another program's file names another model.

    Raises:
        WrongBaseError: see there.
    """
    if ours is not None and ours.base.family != family.name:
        raise WrongBaseError(
            f"{path} was made for a model of the family '{ours.base.family}', and this one is of '{family.name}'; give "
            f"the model that it was made for ({ours.base.model})."
        )
    told = told_family(metadata) if ours is None else None
    if told is not None and told[0] != family.name:
        warnings.warn(
            f"{path} says that it was made for {told[1]}, and this model is of the family '{family.name}', on which it "
            "may do something else; give the model that it was made for.",
            ExciseWarning,
            stacklevel=3,
        )


def _change(path: Path, state: dict[str, Tensor], metadata: dict[str, str], family: Family) -> _Change:
    """Return the deltas of an adapter, or the differences of weights from the base."""
    names = Names(family)
    if is_adapter(state):
        adapter = read_adapter(state, metadata, names)
        return _Change(adapter.modules, " and ".join(adapter.forms), adapter.notes)
    weights, layout = match_names(state, names)
    modules = dict[str, Delta](differences(weights, family, names))
    notes = []
    if (counts := nearly_all_differ(weights, modules, names)) is not None:
        notes.append(
            f"{counts[0]} of the denoiser's {counts[1]} matrices differ from the base; if it is not the model that "
            f"{path.name} was made from, the edit is the difference of two models."
        )
    return _Change(modules, layout, tuple(notes))
