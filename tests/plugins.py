"""A package that registers methods, as if it were installed: files and metadata in a folder for the import path."""

from __future__ import annotations

import runpy
from collections.abc import Mapping
from pathlib import Path

from excise.registry import Record

NUDGE = Path(__file__).parent / "data" / "plugin"
"""The folder of a package whose one file, nudge.py, defines the method "nudge"."""


def nudge_record() -> Record:
    """The record of "nudge"; its class can be imported where the folder `NUDGE` is on the import path."""
    record = runpy.run_path(str(NUDGE / "nudge.py"))["RECORD"]
    assert isinstance(record, Record)
    return record


def install(folder: Path, name: str, files: Mapping[str, str], methods: Mapping[str, str]) -> Path:
    """Write a package to `folder`, which `importlib.metadata` then finds if the folder is on the import path.

    Args:
        name: of the package.
        files: text by file name.
        methods: entry points of the group excise.methods, "module:attribute" by name.
    """
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    for file, text in files.items():
        (folder / file).write_text(text, encoding="utf-8")
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n", encoding="utf-8")
    lines = [f"{method} = {target}\n" for method, target in methods.items()]
    (info / "entry_points.txt").write_text("[excise.methods]\n" + "".join(lines), encoding="utf-8")
    return folder
