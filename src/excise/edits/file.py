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
from safetensors.torch import save_file
from torch import Tensor

from excise.edits.deltas import Delta, Dense, LowRank, TextMap
from excise.edits.hooks import Hook, check_one_guided, read_hook
from excise.edits.record import FORMAT, KEY, EditRecord
from excise.errors import EditFileError, ModelError, UnknownNameError
from excise.support.files import write_atomically
from excise.support.runs import EDIT_NAME

_PICKLE_STARTS = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


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
    # One key alone: safetensors writes several in an order that changes from run to run.
    metadata = {KEY: json.dumps(header, ensure_ascii=False, sort_keys=True)}
    write_atomically(path, lambda p: save_file(single, p, metadata=metadata))


def read(path: Path) -> Content:
    """Read an edit, from its file or from the run folder that holds it.

    Raises:
        EditFileError: missing, cut short, a pickle, another kind of file, or inconsistent inside.
    """
    if path.is_dir():
        if not (path / EDIT_NAME).is_file():
            raise EditFileError(
                f"the folder {path} holds no {EDIT_NAME}; give an edit file, or the run folder that "
                "`excise erase` wrote."
            )
        path = path / EDIT_NAME
    if not path.is_file():
        raise EditFileError(f"there is no edit file {path}; give the edit.safetensors that `excise erase` wrote.")
    with path.open("rb") as file:
        start = file.read(9)
    # The length of a safetensors header may look like the start of a pickle; the header itself opens with a brace.
    if (start.startswith(_PICKLE_STARTS) and start[8:] != b"{") or path.suffix.lower() in (
        ".pt",
        ".pth",
        ".ckpt",
        ".bin",
    ):
        raise EditFileError(
            f"{path} is a pickle, which can run code when it is read; expected a .safetensors edit file."
        )
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError) as error:
        raise EditFileError(
            f"{path} is damaged or cut short ({error}); copy it again or run `excise erase` again."
        ) from error
    if KEY not in metadata:
        raise EditFileError(f"{path} is a safetensors file, but not an edit: its metadata has no '{KEY}' entry.")
    try:
        header = json.loads(metadata[KEY])
        if header["record"].get("format") not in range(1, FORMAT + 1):
            raise EditFileError(
                f"{path} has edit format {header['record'].get('format')}; this version reads up to {FORMAT}. "
                "Upgrade excise."
            )
        record = EditRecord.model_validate(header["record"])
        hooks = _hooks(tensors, header.get("hooks", []))
        text_maps, modules = _deltas(tensors, header["text_maps"])
    except UnknownNameError as error:
        raise EditFileError(
            f"{path} needs a hook that this version does not know: {error} Upgrade excise, or install the package that "
            "brings this hook."
        ) from error
    except (KeyError, TypeError, ValueError, AttributeError, ValidationError, ModelError) as error:
        raise EditFileError(
            f"{path} holds an edit that cannot be read ({_short(error)}); it was changed or cut. Copy it again, or run "
            "`excise erase` again."
        ) from error
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
    left = dict(tensors)
    flat = [name for name, t in tensors.items() if t.ndim != 2 and not name.endswith(".dw")]
    bad = flat + [name for name, t in tensors.items() if not bool(torch.isfinite(t).all())]
    if bad:
        raise ValueError(f"tensor '{bad[0]}' is not a finite matrix")
    text_maps = []
    for i, paths in enumerate(maps):
        u, v = left.pop(f"text_map.{i}.u"), left.pop(f"text_map.{i}.v")
        if u.shape != v.T.shape:
            raise ValueError(f"text map {i} has factors {tuple(u.shape)} and {tuple(v.shape)}")
        text_maps.append(TextMap(u, v, tuple(map(str, paths))))
    modules: dict[str, Delta] = {}
    for name in sorted(left):
        path, _, part = name.rpartition(".")
        if part == "dw":
            modules[path] = Dense(left[name])
        elif part == "a":
            b, a = left[f"{path}.b"], left[name]
            if b.shape[1] != a.shape[0]:
                raise ValueError(f"'{path}' has factors {tuple(b.shape)} and {tuple(a.shape)}")
            modules[path] = LowRank(b, a)
        elif part != "b" or f"{path}.a" not in left:
            raise ValueError(f"unexpected tensor '{name}'")
    return tuple(text_maps), modules


def _short(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"the entry {error} is missing"
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
