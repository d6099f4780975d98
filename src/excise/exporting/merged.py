"""Write a pipeline folder with the edit merged in, with files and names that readers of all versions know."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from excise.edits.apply import alone
from excise.edits.edit import Edit
from excise.edits.provenance import MARK, MARK_EXPORT, Evidence
from excise.errors import OutputError
from excise.exporting.lora import component_path
from excise.exporting.piecewise import saving_piecewise, unread
from excise.families.base import Family
from excise.families.load import quiet
from excise.families.networks import as_saved
from excise.support.files import write_json, write_text

ORIGINS = ("_name_or_path", "name_or_path")  # as diffusers and transformers store it


def write(
    edit: Edit, family: Family, weights: Mapping[str, Tensor], folder: Path, evidence: Evidence
) -> Callable[[str], Tensor]:
    """Write the pipeline into `folder`; the files are moved in only when all are written.

    Returns:
        A function of a path that returns the written weight minus that of the base.

    Raises:
        OutputError: the folder cannot be written.
    """
    partial = Path(tempfile.mkdtemp(dir=folder, prefix=".partial-"))
    try:
        with (
            quiet(),
            alone(edit, family),
            as_saved(family.pipe, unread(family.pipe)),
            saving_piecewise(family.pipe),
        ):
            family.pipe.save_pretrained(partial, safe_serialization=True)
        _make_readable(partial, family.pipe)
        write_json(partial / MARK, edit.record.model_dump(mode="json"))
        write_text(partial / MARK_EXPORT, evidence.text() + "\n")
        # The record comes first, so that a folder from an interrupted export is recognised as an export.
        for part in sorted(partial.iterdir(), key=lambda part: (part.name != MARK, part.name)):
            target = folder / part.name
            if target.is_dir():
                shutil.rmtree(target)
            part.replace(target)
    except OSError as error:
        raise OutputError(
            f"writing {folder} failed: {error.strerror or error}. Free some space and run it again."
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    parts = {component_path(path, family)[0] for path in edit.paths}
    merged = {part: _state(folder / part) for part in parts}

    def change(path: str) -> Tensor:
        part, rest = component_path(path, family)
        name = f"{rest}.weight" if f"{rest}.weight" in merged[part] else rest
        return merged[part][name].float() - weights[path].float().cpu()

    return change


def _make_readable(folder: Path, pipe: Any) -> None:
    """Add the names and files that transformers 4, older diffusers and other programs need; drop folders from here."""
    for name, part in pipe.components.items():
        if any(kind.__name__ == "CLIPTextModel" for kind in type(part).__mro__):
            _rename(folder / name, lambda n: n if n.startswith("text_model.") else f"text_model.{n}")
        elif name.startswith("tokenizer"):
            _write_vocabulary(folder / name)
    index = folder / "model_index.json"
    text = index.read_text(encoding="utf-8")
    index.write_text(text.replace('"CLIPImageProcessorPil"', '"CLIPImageProcessor"'), encoding="utf-8")
    for config in sorted(folder.rglob("*.json")):
        _forget_origin(config)


def _forget_origin(file: Path) -> None:
    """Remove from a configuration where a part was loaded from, a folder of this machine; loading sets it anew."""
    text = file.read_text(encoding="utf-8")
    if any(f'"{key}"' in text for key in ORIGINS):
        write_json(file, _without_origin(json.loads(text)))


def _without_origin(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _without_origin(value) for key, value in content.items() if key not in ORIGINS}
    return [_without_origin(value) for value in content] if isinstance(content, list) else content


def _rename(folder: Path, name_of: Callable[[str], str]) -> None:
    """Rename every tensor in the weight files of a component."""
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as opened:
            metadata, names = opened.metadata(), opened.keys()
        if all(name_of(name) == name for name in names):
            continue
        save_file({name_of(name): tensor for name, tensor in load_file(file).items()}, file, metadata=metadata)
    for file in sorted(folder.glob("*.index.json")):
        index = json.loads(file.read_text(encoding="utf-8"))
        index["weight_map"] = {name_of(name): at for name, at in index["weight_map"].items()}
        write_json(file, index)


def _write_vocabulary(folder: Path) -> None:
    """Write `vocab.json` and `merges.txt` from the `tokenizer.json` of a CLIP tokenizer; leave others alone."""
    file = folder / "tokenizer.json"
    if not file.exists() or (folder / "vocab.json").exists():
        return
    model = json.loads(file.read_text(encoding="utf-8"))["model"]
    if model.get("type") != "BPE" or model.get("end_of_word_suffix") != "</w>":
        return
    pairs = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *pairs]) + "\n", encoding="utf-8")
    vocabulary = dict(sorted(model["vocab"].items(), key=lambda item: item[1]))
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False) + "\n", encoding="utf-8")


def _state(folder: Path) -> dict[str, Tensor]:
    """Return the tensors of one component of a saved pipeline, under the names that paths of edits use."""
    state: dict[str, Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        state |= load_file(file)
    return {name.removeprefix("text_model."): tensor for name, tensor in state.items()}
