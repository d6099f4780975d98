"""What the header of an edit file tells, without torch: the record, the paths, and the shapes of the changes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from excise.edits.record import FORMAT, KEY, EditRecord
from excise.errors import EditFileError
from excise.support.headers import SINGLE, read_header
from excise.support.runs import EDIT_NAME

Shapes = Mapping[str, tuple[int, ...]]

_PICKLE_STARTS = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
_PICKLE_ENDS = (".pt", ".pth", ".ckpt", ".bin")


@dataclass(frozen=True)
class Outline:
    """An edit without its numbers, and without hooks.

    Attributes:
        maps: by text map, the paths it is for.
        modules: paths that have a change of their own.
        rank: the largest rank; 0 where every change is a whole difference.
        bytes: of all tensors.
    """

    record: EditRecord
    maps: tuple[tuple[str, ...], ...]
    modules: tuple[str, ...]
    rank: int
    bytes: int

    @property
    def paths(self) -> list[str]:
        """Every path that the edit changes, sorted."""
        return sorted({*self.modules, *(path for paths in self.maps for path in paths)})


def outline(path: Path) -> Outline | None:
    """Read the outline of an edit file; None where only the edit itself tells all (it has hooks, or is no good).

    Raises:
        EditFileError: as `located_edit` and `header_of`.
    """
    path = located_edit(path)
    try:
        header = read_header(path)
    except (OSError, ValueError):
        return None
    if any(entry.dtype != SINGLE for entry in header.tensors.values()):
        return None
    content = header_of(path, header.metadata)
    shapes = {name: entry.shape for name, entry in header.tensors.items()}
    try:
        if content.get("hooks"):
            return None
        record = EditRecord.model_validate(content["record"])
        check_matrices(shapes)
        maps = tuple(tuple(map(str, paths)) for paths in content["text_maps"])
        modules = sort_parts(shapes, len(maps))
    except (KeyError, TypeError, ValueError, AttributeError, ValidationError):
        return None
    if not all(header.is_finite(name) for name in header.tensors):
        return None
    ranks = [shapes[f"{module}.a"][0] for module, part in modules.items() if part == "a"]
    rank = max([*ranks, *(shapes[f"text_map.{i}.v"][0] for i in range(len(maps)))], default=0)
    size = sum(entry.end - entry.begin for entry in header.tensors.values())
    return Outline(record, maps, tuple(modules), rank, size)


def located_edit(path: Path) -> Path:
    """The edit file that a path means: the file itself, or that in a run folder.

    Raises:
        EditFileError: there is none, or it is a pickle.
    """
    if path.is_dir():
        if not (path / EDIT_NAME).is_file():
            raise EditFileError(
                f"the folder {path} holds no {EDIT_NAME}; give an edit file, or the run folder that "
                "`excise erase` wrote."
            )
        path = path / EDIT_NAME
    if not path.is_file():
        raise EditFileError(
            f"there is no edit file {path}; give the edit.safetensors that `excise erase` wrote, or its run folder."
        )
    with path.open("rb") as file:
        start = file.read(9)
    # The length of a safetensors header may look like the start of a pickle; the header itself opens with a brace.
    if (start.startswith(_PICKLE_STARTS) and start[8:] != b"{") or path.suffix.lower() in _PICKLE_ENDS:
        raise EditFileError(
            f"{path} is a pickle, which can run code when it is read; expected a .safetensors edit file."
        )
    return path


def header_of(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    """The entry of an edit in a file's metadata.

    Raises:
        EditFileError: there is none, or of a newer version, or it cannot be read.
    """
    if KEY not in metadata:
        raise EditFileError(f"{path} is a safetensors file, but not an edit: its metadata has no '{KEY}' entry.")
    try:
        header: dict[str, Any] = json.loads(metadata[KEY])
        format = header["record"].get("format")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise unreadable(path, error) from error
    if format not in range(1, FORMAT + 1):
        raise EditFileError(f"{path} has edit format {format}; this version reads up to {FORMAT}. Upgrade excise.")
    return header


def unreadable(path: Path, error: Exception) -> EditFileError:
    """The error of an edit whose content does not fit together."""
    return EditFileError(
        f"{path} holds an edit that cannot be read ({_short(error)}); it was changed or cut. Copy it again, or run "
        "`excise erase` again."
    )


def check_matrices(shapes: Shapes) -> None:
    """Refuse a factor that is no matrix; whole differences have any shape.

    Raises:
        ValueError: names the tensor.
    """
    for name, shape in shapes.items():
        if len(shape) != 2 and not name.endswith(".dw"):
            raise ValueError(f"tensor '{name}' is not a finite matrix")


def sort_parts(shapes: Shapes, maps: int) -> dict[str, str]:
    """Check that named tensors fit together, and return the paths with a change of their own: "dw", or "a" for factors.

    Args:
        maps: how many text maps the header lists.

    Raises:
        ValueError, KeyError: a tensor is missing, of another shape, or belongs to nothing.
    """
    left = dict(shapes)
    for i in range(maps):
        u, v = left.pop(f"text_map.{i}.u"), left.pop(f"text_map.{i}.v")
        if u != tuple(reversed(v)):
            raise ValueError(f"text map {i} has factors {u} and {v}")
    modules = {}
    for name in sorted(left):
        path, _, part = name.rpartition(".")
        if part == "a" and left[f"{path}.b"][1] != left[name][0]:
            raise ValueError(f"'{path}' has factors {left[f'{path}.b']} and {left[name]}")
        if part in ("a", "dw"):
            modules[path] = part
        elif part != "b" or f"{path}.a" not in left:
            raise ValueError(f"unexpected tensor '{name}'")
    return modules


def _short(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"the entry {error} is missing"
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
