"""A package that registers methods, as if it were installed: files and metadata in a folder for the import path."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from excise.registry import Record

NUDGE = Path(__file__).parents[1] / "examples" / "plugin"
"""The folder of the package that is the template for others; its one file, nudge.py, defines the method "nudge"."""


def nudge_record() -> Record:
    """The record of "nudge"; its class can be imported where the folder `NUDGE` is on the import path."""
    title = "Targets read as their anchors by the smallest change"
    return Record("nudge:Nudge", title, shape="closed-form", needs=frozenset({"static_text"}))


def install(
    folder: Path, name: str, files: Mapping[str, str], entries: Mapping[str, str], group: str = "excise.methods"
) -> Path:
    """Write a package to `folder`, which `importlib.metadata` then finds if the folder is on the import path.

    Args:
        name: of the package.
        files: text by file name.
        entries: entry points, "module:attribute" by name.
        group: of the entry points.
    """
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    for file, text in files.items():
        (folder / file).write_text(text, encoding="utf-8")
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n", encoding="utf-8")
    lines = [f"{entry} = {target}\n" for entry, target in entries.items()]
    (info / "entry_points.txt").write_text(f"[{group}]\n" + "".join(lines), encoding="utf-8")
    return folder
