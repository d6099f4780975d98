"""Reading and writing edit files: safetensors, with the record as JSON text in the metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from excise.edits.deltas import Delta, Dense, LowRank, TextMap
from excise.edits.hooks import Hook, check_one_guided, read_hook
from excise.edits.outline import check_matrices, header_of, located_edit, sort_parts, unreadable
from excise.edits.record import KEY, EditRecord
from excise.errors import EditFileError, ModelError, UnknownNameError
from excise.support.files import write_tensors


@dataclass(frozen=True)
class Content:
    """What an edit file holds."""

    record: EditRecord
    text_maps: tuple[TextMap, ...]
    modules: dict[str, Delta]
    hooks: tuple[Hook, ...] = ()


def write(path: Path, content: Content, tensors: Mapping[str, Tensor]) -> None:
    """Write an edit to `path` (tensors, by name, in single precision), atomically.

    Raises:
        OutputError: it cannot be written; nothing is left behind.
    """
    single = {name: t.detach().to("cpu", torch.float32).contiguous() for name, t in tensors.items()}
    maps = [list(m.modules) for m in content.text_maps]
    header: dict[str, Any] = {"record": content.record.model_dump(mode="json"), "text_maps": maps}
    if content.hooks:
        header["hooks"] = [
            {"kind": hook.kind, "settings": hook.settings(), "strength": hook.strength} for hook in content.hooks
        ]
    write_tensors(path, single, {KEY: json.dumps(header, ensure_ascii=False, sort_keys=True)})


def read(path: Path) -> Content:
    """Read an edit, from its file or from the run folder that holds it.

    Raises:
        EditFileError: missing, cut short, a pickle, another kind of file, or inconsistent inside.
    """
    path = located_edit(path)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError) as error:
        if path.suffix.lower() != ".safetensors":
            raise EditFileError(
                f"{path} is no edit file; expected the edit.safetensors that `excise erase` wrote, or its run folder."
            ) from error
        raise EditFileError(
            f"{path} is damaged or cut short ({error}); copy it again or run `excise erase` again."
        ) from error
    header = header_of(path, metadata)
    try:
        record = EditRecord.model_validate(header["record"])
        hooks = _hooks(tensors, header.get("hooks", []))
        text_maps, modules = _deltas(tensors, header["text_maps"])
    except UnknownNameError as error:
        raise EditFileError(
            f"{path} needs a hook that this version does not know: {error} Upgrade excise, or install the package that "
            "brings this hook."
        ) from error
    except (KeyError, TypeError, ValueError, AttributeError, ValidationError, ModelError) as error:
        raise unreadable(path, error) from error
    return Content(record, text_maps, modules, hooks)


def _hooks(tensors: dict[str, Tensor], entries: list[dict[str, Any]]) -> tuple[Hook, ...]:
    """The hooks that a header lists, each with its tensors, which are taken out of `tensors`."""
    hooks = []
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ValueError("the entry 'hooks' is no list of hooks")
    for i, entry in enumerate(entries):
        prefix = f"hook.{i}."
        own = {name.removeprefix(prefix): tensors.pop(name) for name in list(tensors) if name.startswith(prefix)}
        hooks.append(read_hook(entry, own))
    if stray := [name for name in tensors if name.startswith("hook.")]:
        raise ValueError(f"the tensor '{stray[0]}' belongs to no hook that the header lists")
    check_one_guided(hooks)
    return tuple(hooks)


def _deltas(tensors: dict[str, Tensor], maps: list[list[str]]) -> tuple[tuple[TextMap, ...], dict[str, Delta]]:
    """Sort named tensors into deltas, checking that they fit together."""
    shapes = {name: tuple(t.shape) for name, t in tensors.items()}
    check_matrices(shapes)
    if bad := [name for name, t in tensors.items() if not bool(torch.isfinite(t).all())]:
        raise ValueError(f"tensor '{bad[0]}' is not a finite matrix")
    parts = sort_parts(shapes, len(maps))
    text_maps = tuple(
        TextMap(tensors[f"text_map.{i}.u"], tensors[f"text_map.{i}.v"], tuple(map(str, paths)))
        for i, paths in enumerate(maps)
    )
    modules: dict[str, Delta] = {
        path: Dense(tensors[f"{path}.dw"]) if part == "dw" else LowRank(tensors[f"{path}.b"], tensors[f"{path}.a"])
        for path, part in parts.items()
    }
    return text_maps, modules
