"""What other tools erased, as an edit: whole or partial denoisers, text encoders, adapters, folders, single files.

A file is read without running anything in it (`foreign/files.py`), its names are brought to those of the base model
(`foreign/names.py`), and what it adds to the base, or how it differs from it, is the edit. Every tensor must find its
place.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from excise.concepts.concept import Concept, as_concepts
from excise.concepts.vocabulary import guess_kind
from excise.edits.bases import base_of
from excise.edits.deltas import Delta
from excise.edits.edit import Edit
from excise.edits.record import VERSIONED, EditRecord, Target
from excise.errors import ExciseWarning, WrongBaseError
from excise.families.built_in import is_built_in
from excise.families.load import as_family
from excise.importing.adapters import is_adapter, read_adapter
from excise.importing.files import read
from excise.importing.names import Names
from excise.importing.weights import all_differ, differences, placed


def import_edit(
    path: str | Path,
    model: Any,
    concepts: Sequence[str | Concept],
    *,
    kind: str | None = None,
    model_name: str | None = None,
) -> Edit:
    """Read another tool's result as an edit of the model it was made from.

    Args:
        path: a file, or a folder of a pipeline, of its denoiser, or of its text encoder.
        model: the base; it is not changed.
        concepts: what the result is said to have erased, for the record. kind: of those given as plain names.

    Raises:
        EditFileError: it cannot be read, holds code, or holds what cannot be an edit.
        WrongBaseError: names or shapes are not those of the base, or nothing differs from it.
    """
    path, family = Path(path), as_family(model)
    wanted = [guess_kind(c, kind, is_built_in(family)) for c in as_concepts(concepts, kind)]
    state, about = read(path)
    names, notes = Names(family), list[str]()
    if is_adapter(state):
        adapter = read_adapter(state, about, names)
        modules, layout = adapter.modules, " and ".join(adapter.forms)
        notes += adapter.notes
    else:
        found, layout = placed(state, names)
        modules = dict[str, Delta](differences(found, family, names))
        if (counts := all_differ(found, modules, names)) is not None:
            notes.append(
                f"{counts[0]} of the denoiser's {counts[1]} matrices differ from the base; if it is not the model that "
                f"{path.name} was made from, the edit is the difference of two models."
            )
    if not modules:
        raise WrongBaseError(f"{path} holds nothing that differs from the base, so there is nothing to import.")
    for note in notes:
        warnings.warn(note, ExciseWarning, stacklevel=2)
    record = EditRecord(
        excise=version("excise"),
        base=base_of(family, model_name or str(family.pipe.config.get("_name_or_path") or "unnamed pipeline")),
        method="imported",
        settings={"file": path.name, "layout": layout},
        concepts=tuple(Target(name=c.name, kind=c.kind, anchor=c.anchor or "", synonyms=c.synonyms) for c in wanted),
        preserve=(),
        vocabulary=None,
        seed=0,
        versions={p: version(p) for p in VERSIONED},
        measured={},
    )
    return Edit(record, (), modules)
