"""Check the target of an export: it must not replace a model or any file that no export wrote."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError, safe_open

from excise.edits.provenance import MARK, RECORD
from excise.errors import OutputError
from excise.families.base import Family
from excise.support.files import resolved


def check_place(family: Family, target: Path) -> None:
    """Refuse a target whose writing would destroy other files; an earlier export may be replaced.

    Raises:
        OutputError: the model was loaded from `target`, or it contains files that no export wrote.
    """
    if resolved(target) is not None and resolved(target) == resolved(family.pipe.config.get("_name_or_path")):
        raise OutputError(f"{target} is the model itself, which the export would replace; choose another --out.")
    if target.is_dir():
        names = ("model_index.json", *family.pipe.components)
        existing = next((target / n for n in names if (target / n).exists()), None)
        foreign = existing is not None and not (target / MARK).exists()
    else:
        existing, foreign = target, target.exists() and not _has_record(target)
    if foreign:
        raise OutputError(
            f"{existing} is there already and was not written by `excise export`, which would replace it; choose "
            "another --out, or move it away first."
        )


def _has_record(file: Path) -> bool:
    try:
        with safe_open(file, framework="pt") as opened:
            return RECORD in (opened.metadata() or {})
    except (OSError, SafetensorError):
        return False
