"""Where an export may go: never over a model, or over anything else that no export wrote."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError, safe_open

from excise.errors import OutputError
from excise.exporting.record import RECORD
from excise.families.base import Family
from excise.support.files import resolved

MARK = "excise_record.json"  # by which a folder written here is known again


def check_place(family: Family, target: Path) -> None:
    """Refuse a file or folder whose writing would destroy what is there; an earlier export may be replaced.

    Raises:
        OutputError: the model was loaded from it, or it holds what was not written by an export.
    """
    if resolved(target) is not None and resolved(target) == resolved(family.pipe.config.get("_name_or_path")):
        raise OutputError(f"{target} is the model itself, which the export would replace; choose another --out.")
    if target.is_dir():
        names = ("model_index.json", *family.pipe.components)
        held = next((target / n for n in names if (target / n).exists()), None)
        foreign = held is not None and not (target / MARK).exists()
    else:
        held, foreign = target, target.exists() and not _has_record(target)
    if foreign:
        raise OutputError(
            f"{held} is there already and was not written by `excise export`, which would replace it; choose another "
            "--out, or move it away first."
        )


def _has_record(file: Path) -> bool:
    try:
        with safe_open(file, framework="pt") as opened:
            return RECORD in (opened.metadata() or {})
    except (OSError, SafetensorError):
        return False
