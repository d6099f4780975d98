"""Check the target of an export: it must not replace a model or any file that no export wrote."""

from __future__ import annotations

from pathlib import Path

from excise.concepts.concept import listed
from excise.edits.exports import exported_record
from excise.edits.provenance import MARK
from excise.edits.record import EditRecord
from excise.errors import OutputError
from excise.families.base import Family
from excise.support.files import resolved


def check_place(family: Family, target: Path, record: EditRecord, force: bool = False) -> None:
    """Refuse a target whose writing would destroy other files; an earlier export of the same edit may be replaced.

    Args:
        record: of the edit that is exported.
        force: replace an export of another edit too.

    Raises:
        OutputError: the model was loaded from `target`, or it contains files that no export wrote, or (unless `force`)
            an export of another edit.
    """
    if resolved(target) is not None and resolved(target) == resolved(family.pipe.config.get("_name_or_path")):
        raise OutputError(f"{target} is the model itself, which the export would replace; choose another --out.")
    if target.is_dir():
        names = ("model_index.json", *family.pipe.components)
        existing = next((target / n for n in names if (target / n).exists()), None)
        foreign = existing is not None and not (target / MARK).exists()
    else:
        existing, foreign = target, target.exists() and exported_record(target) is None
    if foreign:
        raise OutputError(
            f"{existing} is there already and was not written by `excise export`, which would replace it; choose "
            "another --out, or move it away first."
        )
    earlier = None if force else exported_record(target)
    if earlier is not None and earlier != record:
        raise OutputError(
            f"{target} holds an export of another edit ({earlier.method}: "
            f"{listed([c.name for c in earlier.concepts])}); choose another --out, or replace it with --force."
        )
