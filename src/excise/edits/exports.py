"""Read what an export says about itself: its record, and what was verified. No model is needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from excise.edits.provenance import EXPORT, FORMAT, MARK, MARK_EXPORT, RECORD, Evidence, parse
from excise.edits.record import EditRecord
from excise.errors import EditFileError
from excise.support.digests import short_digest
from excise.support.headers import read_header
from excise.support.runs import EDIT_NAME
from excise.support.slugs import slug

DIFFUSERS_NAME = "pytorch_lora_weights.safetensors"
ENDS = {
    "kohya-lora": "_kohya_lora.safetensors",
    "single-file": "_model.safetensors",
    "comfyui-lora": "_comfyui_lora.safetensors",
}
_KOHYA, *_OTHERS = (f"excise*{end}" for end in ENDS.values())
FILES = (_KOHYA, DIFFUSERS_NAME, *_OTHERS)  # patterns of the files of exports
FORMATS = ("diffusers-lora", "comfyui-lora", "kohya-lora", "merged", "single-file")
PROGRAMS = (
    *("ai-toolkit", "comfyui", "diffusers", "invokeai", "musubi", "nunchaku", "onetrainer"),
    *("sd-cpp", "sd-scripts", "webui"),
)
DOWN = (".lora_down.weight", ".lora_A.weight", ".lora_linear_layer.down.weight")
UP = (".lora_up.weight", ".lora_B.weight", ".lora_linear_layer.up.weight")


@dataclass(frozen=True)
class Shipped:
    """What an export says about itself.

    Attributes:
        record: of the edit. evidence: the edit file's digest, and what was verified of it.
        format: one of `FORMATS`.
        modules: names of the layers that a LoRA changes; empty for a whole model.
        rank: the largest rank; 0 for a whole model.
        bytes: size of the files.
    """

    record: EditRecord
    evidence: Evidence
    format: str
    modules: tuple[str, ...]
    rank: int
    bytes: int


def export_name(format: str, concepts: Sequence[str]) -> str:
    """Return the name of an exported file; empty for a merged pipeline, which is a folder.

    It tells the concepts, for a program keeps the files of several edits in one folder. diffusers looks for one name.

    >>> export_name("kohya-lora", ["cat"]), export_name("kohya-lora", ["Van Gogh", "dog", "car"])
    ('excise_cat_kohya_lora.safetensors', 'excise_van-gogh_and_2_more_kohya_lora.safetensors')
    """
    if format in ("merged", "diffusers-lora"):
        return DIFFUSERS_NAME if format == "diffusers-lora" else ""
    first = slug(concepts[0]) if concepts else ""
    more = f"_and_{len(concepts) - 1}_more" if len(concepts) > 1 else ""
    return f"excise_{first or short_digest(list(concepts))[:8]}{more}{ENDS[format]}"


def located(path: Path) -> list[Path]:
    """Return the edits and exports that a path means: the file itself, a merged folder, or all such in a folder.

    Folders for several programs, one below another, are looked into where the folder itself holds none.

    Raises:
        EditFileError: there is nothing there.
    """
    if not path.exists():
        raise EditFileError(f"there is no file or folder {path}; give an edit file, or what excise export wrote.")
    if path.is_file() or (path / MARK).is_file():
        return [path]
    files = _held(path) or [file for name in (*PROGRAMS, *FORMATS) for file in _held(path / name)]
    if files:
        return files
    raise EditFileError(
        f"{path} holds neither an edit ({EDIT_NAME}) nor an export that carries its record; give what excise erase or "
        "excise export wrote."
    )


def _held(folder: Path) -> list[Path]:
    """The edit and the exports in a folder, or the folder itself where it is a merged model."""
    if (folder / MARK).is_file():
        return [folder]
    return [path for pattern in (EDIT_NAME, *FILES) for path in sorted(folder.glob(pattern)) if path.is_file()]


def read_export(path: Path) -> Shipped | None:
    """Read an export; None if a file is another safetensors file, such as an edit.

    Args:
        path: a file, or a merged folder.

    Raises:
        EditFileError: the record is there but cannot be read.
    """
    if path.is_dir():
        return _merged(path)
    try:
        header = read_header(path)
        metadata = header.metadata
        if RECORD not in metadata:
            return None
        downs = {name: entry.shape[0] for name, entry in header.tensors.items() if name.endswith(DOWN)}
        changed = [n for n in header.tensors if n.endswith(UP) and any(header.raw(n))]  # others are markers
    except (OSError, ValueError):
        return None
    record, evidence = parse(path, metadata[RECORD], metadata.get(EXPORT))
    modules = tuple(sorted(_stem(name) for name in changed))
    by_keys = "single-file" if not downs else "kohya-lora" if _is_kohya(downs) else "diffusers-lora"
    format = metadata[FORMAT] if metadata.get(FORMAT) in FORMATS else by_keys
    return Shipped(record, evidence, format, modules, max(downs.values(), default=0), path.stat().st_size)


def others_beside(path: Path) -> dict[str, tuple[str, ...]]:
    """Return the other exports in the folder of an exported file: the concepts that each removes, by its name."""
    others = {}
    for other in _held(path.parent):
        record = exported_record(other) if other.name not in (path.name, EDIT_NAME) else None
        if record is not None:
            others[other.name] = tuple(c.name for c in record.concepts)
    return others


def exported_record(path: Path) -> EditRecord | None:
    """Return the record of the edit that an export holds, in a file or a merged folder; None where there is none.

    Raises:
        EditFileError: the record is there but cannot be read.
    """
    try:
        if path.is_dir():
            text = (path / MARK).read_text(encoding="utf-8") if (path / MARK).exists() else None
        else:
            text = read_header(path).metadata.get(RECORD)
    except (OSError, ValueError):
        return None
    return parse(path, text, None)[0] if text else None


def _merged(folder: Path) -> Shipped:
    mark = folder / MARK_EXPORT
    try:
        text = (folder / MARK).read_text(encoding="utf-8")
        evidence = mark.read_text(encoding="utf-8") if mark.exists() else None
        size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
    except (OSError, UnicodeDecodeError) as error:
        raise EditFileError(f"the record in {folder} cannot be read ({error}); export the edit again.") from error
    return Shipped(*parse(folder, text, evidence), "merged", (), 0, size)


def _is_kohya(downs: Mapping[str, int]) -> bool:
    return all(name.startswith("lora_") for name in downs)


def _stem(name: str) -> str:
    return next(name.removesuffix(end) for end in UP if name.endswith(end))
