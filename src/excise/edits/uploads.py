"""What of an export or an edit is published and what stays, chosen without torch and without a network.

Only what a stranger needs goes up: weights in safetensors, cards, JSON and what a tokenizer reads. Pickles never do;
pictures, cached text states and the record of the run, which tells of folders of this machine, stay unless they are
asked for. Of what was verified the checks of the very files that go up go along.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import yaml

from excise.edits.verified import NAME as VERIFIED
from excise.edits.verified import SCHEMA, as_json, checks_of
from excise.errors import EditFileError
from excise.families.model_names import is_local, local_names
from excise.support.digests import file_digest
from excise.support.headers import read_header
from excise.support.hub import CARD, Upload
from excise.support.runs import RUN_NAME, STATES

OURS = "# This model card was written by excise export, which replaces only files with this line."
CARDS = (CARD, "EXCISE.md")  # of an export; the second where the first is not ours
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".npy", ".npz", ".msgpack", ".h5")
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".html")
WEIGHTS, RECORDS = (".safetensors",), (".json", ".md")
TOKENIZERS = (".txt", ".model")  # vocabularies beside a tokenizer's configuration
KEPT_BACK = (STATES, "images", "training", "attacks")  # folders of a run
NEVER = (".git", ".cache")  # folders that the hub refuses as well
MOST = 10_000_000  # bytes of a JSON file that is looked through
_FOLDERS = "tells of folders of this machine"


def folder_upload(folder: Path, include: Sequence[str] = ()) -> Upload:
    """Return what is published of a folder.

    Args:
        include: patterns of paths in the folder, such as "images/*", that go up as well. Pickles never do, and hidden
            files only by a pattern that begins with a dot.

    Raises:
        EditFileError: it has no card, or nothing in it is a model.
    """
    files: dict[str, Path | bytes] = {}
    left: dict[str, str] = {}
    for path, name in _below(folder):
        reason = _reason(path, name, include)
        if reason:
            left[name] = reason
        elif path.name != VERIFIED:
            files[name] = path
    weights = [path for name, path in files.items() if isinstance(path, Path) and name.endswith(WEIGHTS)]
    for path, name in _below(folder):
        if path.name == VERIFIED and name not in left:
            _add_checks(name, [file for file in weights if file.parent == path.parent], files, left)
    own = folder / CARDS[1]
    if CARDS[1] in files and not is_card(folder / CARD) and is_card(own):
        if CARD in files:
            left[CARD] = f"no model card; {own.name} goes up in its place"
        files[CARD] = files.pop(own.name)
    if CARD not in files:
        raise EditFileError(
            f"{folder} has no {CARD}, which tells strangers what a model is; push a folder that excise export wrote "
            "(of several programs, each folder by itself), or write one."
        )
    if not weights:
        raise EditFileError(
            f"{folder} holds no safetensors file; push a folder that excise export wrote, or an edit file."
        )
    return Upload(folder, dict(sorted(files.items())), left)


def file_upload(file: Path, card: Path | bytes, include: Sequence[str] = ()) -> Upload:
    """Return what is published of one file: itself, its card as README.md, and what was verified of it.

    Args:
        include: patterns of further files beside it, as in `folder_upload`.
    """
    files: dict[str, Path | bytes] = {CARD: card, file.name: file}
    left: dict[str, str] = {}
    if (file.parent / VERIFIED).is_file():
        _add_checks(VERIFIED, [file], files, left)
    for path, name in _below(file.parent) if include else ():
        if name not in (*files, CARD) and path.name != VERIFIED and _matches(name, include):
            reason = _reason(path, name, include)
            left |= {name: reason} if reason else {}
            files |= {} if reason else {name: path}
    return Upload(file, files, left)


def is_card(file: Path, of: Path | None = None) -> bool:
    """Whether a file is a model card: it begins with a front matter that model hubs read.

    Args:
        of: a file of weights beside it. A card of ours that speaks of another one there, and not of it, is not its.
    """
    text = _text(file)
    matter = re.match(r"---[ \t]*\n(.*?)\n---\s", text + "\n", re.DOTALL)
    try:
        if matter is None or not isinstance(yaml.safe_load(matter[1]), dict):
            return False
    except (ValueError, yaml.YAMLError):
        return False
    if of is None or OURS not in text or of.name in text:
        return True
    return not any(other.name in text for other in file.parent.glob("*.safetensors"))


def is_ours(file: Path) -> bool:
    """Whether a card has the line of ours, by which it may be written anew."""
    return OURS in _text(file)


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""


def names_told(upload: Upload) -> dict[str, list[str]]:
    """Return, by file that goes up, the names in its records that tell of folders of this machine.

    Looked through are JSON files but those of tokenizers, and the metadata of safetensors files, whoever wrote them.
    """
    told = {}
    for name, file in upload.files.items():
        content = _records(name, file)
        if content is not None and (names := local_names(content)):
            told[name] = names
    return told


def _records(name: str, file: Path | bytes) -> Any:
    """What a file tells as JSON; None of other files, and of those that cannot be read."""
    try:
        if isinstance(file, Path) and name.endswith(WEIGHTS):
            return {key: _parsed(text) for key, text in read_header(file).metadata.items()}
        if not name.endswith(".json") or "tokenizer" in name.partition("/")[0]:
            return None
        if isinstance(file, bytes):
            return json.loads(file)
        return json.loads(file.read_text(encoding="utf-8")) if file.stat().st_size <= MOST else None
    except (OSError, ValueError, AttributeError):
        return None


def _parsed(text: str) -> Any:
    """The content of a field of metadata: JSON, or a text."""
    try:
        return json.loads(text)
    except (ValueError, TypeError):
        return text


def _add_checks(name: str, weights: Sequence[Path], files: dict[str, Path | bytes], left: dict[str, str]) -> None:
    """Add the checks of files that go up under the name of their record, unless they tell of folders here."""
    own = {file_digest(file): as_json(checks) for file in weights if (checks := checks_of(file))}
    if not own:
        left[name] = "holds no check of what goes up"
    elif any(_tells(check) for of in own.values() for check in of):
        left[name] = f"{_FOLDERS}; what it verified stands in the card"
    else:
        files[name] = (json.dumps({"schema": SCHEMA, "edits": own}, indent=2, ensure_ascii=False) + "\n").encode()


def _tells(check: dict[str, Any]) -> bool:
    """Whether a check names its model by a path, or holds a path in any other field."""
    return is_local(str(check["model"])) or bool(local_names(check))


def _below(folder: Path) -> Iterator[tuple[Path, str]]:
    """Every file below a folder, with its path in it, sorted."""
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        yield path, path.relative_to(folder).as_posix()


def _reason(path: Path, name: str, include: Sequence[str]) -> str:
    """Why a file stays; empty where it goes up."""
    suffix, parts = path.suffix.lower(), name.split("/")
    if suffix in PICKLES:
        return "a pickle or another file that may hold code"
    if path.is_symlink() and not path.resolve().is_relative_to(path.parent.resolve()):
        return "a link out of its folder"
    if any(part.lower() in NEVER for part in parts):
        return "of git or a cache"
    hidden = any(part.startswith(".") for part in parts) or path.resolve().name.startswith(".")
    if hidden and not _matches(name, [pattern for pattern in include if pattern.startswith(".")]):
        return "hidden"
    if _matches(name, include):
        return ""
    if any(part in KEPT_BACK for part in parts[:-1]):
        return f"in the folder {next(p for p in parts if p in KEPT_BACK)} of a run"
    if suffix in PICTURES:
        return "a picture, or a page with pictures"
    if name == RUN_NAME:
        return _FOLDERS
    if suffix in (*WEIGHTS, *RECORDS) or (suffix in TOKENIZERS and "tokenizer" in parts[0]):
        return ""
    return "neither weights nor a record"


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
