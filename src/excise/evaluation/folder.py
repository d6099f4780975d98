"""Folders of pictures that any program drew: which prompt and seed belongs to each."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image

from excise.errors import JudgeError
from excise.protocols.prompt_file import Row, read_prompts
from excise.support.counts import agreeing, counted
from excise.support.runs import RUN_NAME

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
LISTINGS = ("pictures.csv", "prompts.csv", "metadata.csv", "metadata.jsonl")
_NAMED = re.compile(r"(?:\d+[-_ ]+)?(?P<prompt>.*[^\W\d_].*?)[-_ ]+(?:seed[-_ ]?)?(?P<seed>\d+)")


@dataclass(frozen=True)
class Drawn:
    """A picture of a folder.

    Attributes:
        seed: that it was drawn with, where it is known.
        name: what it should show. group: of a protocol. Both where a listing tells them.
        size: width and height in pixels, of pictures that `read_folder` returns.
    """

    path: Path
    prompt: str
    seed: int | None = None
    name: str | None = None
    group: str | None = None
    size: tuple[int, int] | None = None

    @property
    def measures(self) -> str:
        """The size in words."""
        return " x ".join(map(str, self.size or ()))

    @property
    def key(self) -> tuple[str, int | None]:
        """What pairs pictures of two folders."""
        return self.prompt, self.seed


def read_folder(folder: Path, listing: Path | None = None, *, own_first: bool = False) -> list[Drawn]:
    """Return the pictures of a folder and its subfolders with their prompts.

    They are told, in this order, by `listing`; by a file of `LISTINGS` in the folder; by the `run.json` of excise's own
    runs, in the folder or above it; or by the names of the files, as in `a-cat-seed7.png`.

    Args:
        own_first: a file of `LISTINGS` in the folder comes before `listing`.

    Raises:
        JudgeError: there are no pictures, one cannot be read, or has no prompt, or one that is listed is missing.
        ConceptError: the listing cannot be read.
    """
    if not folder.is_dir():
        raise JudgeError(f"{folder} is no folder; name the one with the pictures.")
    files = sorted((p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file()), key=_natural)
    if not files:
        raise JudgeError(f"there are no pictures in {folder}; expected {', '.join(SUFFIXES)}.")
    own = next((folder / name for name in LISTINGS if (folder / name).is_file()), None)
    listing = (own or listing) if own_first else (listing or own)
    drawn = _listed(folder, files, listing) if listing else (_of_run(folder, files) or _named(files))
    return [replace(picture, size=_size_of(picture.path)) for picture in drawn]


def _natural(path: Path) -> list[tuple[int, str]]:
    """The order of a file among others: numbers in names count as numbers."""
    pieces = re.split(r"(\d+)", str(path))
    return [(int(piece), "") if i % 2 else (0, piece) for i, piece in enumerate(pieces)]


def _listed(folder: Path, files: Sequence[Path], listing: Path) -> list[Drawn]:
    """The pictures as a listing has them: by the names of files, or in order where it has none."""
    rows = read_prompts(listing)
    named = [row.file for row in rows]
    if not any(named):
        if len(rows) != len(files):
            raise JudgeError(
                f"{listing} has {counted(len(rows), 'row')} without names of files, and {folder} has "
                f"{counted(len(files), 'picture')}; add a column 'file', or make them equally many."
            )
        return [_drawn(path, row) for path, row in zip(files, rows, strict=True)]
    once = Counter(p.name for p in files)
    known = {p.name: p for p in files if once[p.name] == 1} | {p.relative_to(folder).as_posix(): p for p in files}
    named = [PurePosixPath(name.replace("\\", "/")).as_posix() if name else None for name in named]
    missing = [name or f"row {row.number}" for name, row in zip(named, rows, strict=True) if name not in known]
    if missing:
        raise JudgeError(
            f"{folder} lacks {counted(len(missing), 'picture')} that {listing} lists, the first of them {missing[0]}."
        )
    drawn = [_drawn(known[str(name)], row) for name, row in zip(named, rows, strict=True)]
    path, times = Counter(d.path for d in drawn).most_common(1)[0]
    if times > 1:
        raise JudgeError(f"{listing} lists {path.name} {times} times; name each picture once.")
    unlisted = sorted({*files} - {d.path for d in drawn})
    if unlisted:
        verb = agreeing(len(unlisted), "has", "have")
        raise JudgeError(
            f"{counted(len(unlisted), 'picture')} of {folder} {verb} no prompt in {listing}, the first of them "
            f"{unlisted[0].name}; list them, or move them away."
        )
    return drawn


def _drawn(path: Path, row: Row) -> Drawn:
    return Drawn(path, row.prompt, row.seed, row.name, row.group)


def _of_run(folder: Path, files: Sequence[Path]) -> list[Drawn]:
    """The pictures as a run of excise tells of them; none where there is no such run."""
    for place in (folder, folder.parent):
        try:
            run = json.loads((place / RUN_NAME).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        by_name = _entries(run)
        if by_name and all(p.name in by_name for p in files):
            return [replace(by_name[p.name], path=p) for p in files]
    return []


def _entries(run: Any) -> dict[str, Drawn]:
    """The pictures of a run by the names of their files: of `excise generate`, of `excise evaluate`; else none."""
    try:
        drawn = {Path(e["file"]).name: _told(e) for e in run.get("images") or []}
        for i, e in enumerate(run.get("shown") or []):
            name = next(iter(e["asked"].values()), None)
            drawn[f"{i:04d}.png"] = replace(_told(e), name=name, group=str(e["group"]))
    except (AttributeError, KeyError, TypeError, ValueError):  # the file of another program
        return {}
    return drawn


def _told(entry: Any) -> Drawn:
    return Drawn(Path(), str(entry["prompt"]), int(entry["seed"]))


def _named(files: Sequence[Path]) -> list[Drawn]:
    """The pictures by the names of their files."""
    drawn, without = [], []
    for path in files:
        told = _NAMED.fullmatch(path.stem)
        if told is None:
            without.append(path)
        else:
            drawn.append(Drawn(path, re.sub(r"[-_\s]+", " ", told["prompt"]).strip(), int(told["seed"])))
    if without:
        raise JudgeError(
            f"{counted(len(without), 'picture')} {agreeing(len(without), 'has', 'have')} no prompt, the first of them "
            f"{without[0].name}; list file, prompt and seed in {LISTINGS[0]} beside the pictures (or --prompts FILE), "
            "or name files as in a-cat-seed7.png."
        )
    return drawn


def _size_of(path: Path) -> tuple[int, int]:
    """Width and height of a picture, which is read whole: a PNG by its checksums, any other by its pixels.

    Raises:
        JudgeError: it cannot be read.
    """
    try:
        with Image.open(path) as image:
            size = image.size
            if image.format == "PNG":
                image.verify()
            else:
                image.load()
            return size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise JudgeError(f"{path} is no readable picture ({error}); draw it again, or move it away.") from error


def paired(before: Sequence[Drawn], after: Sequence[Drawn]) -> list[Drawn]:
    """Return the pictures of `before` in the order of `after`, by prompt and seed.

    Raises:
        JudgeError: a picture has no partner, or several.
    """
    partners: dict[tuple[str, int | None], list[Drawn]] = {}
    for picture in before:
        partners.setdefault(picture.key, []).append(picture)
    alone = [p for p in after if not partners.get(p.key)]
    many = next((p for p in after if len(partners.get(p.key, [])) > 1), None)
    if alone:
        raise JudgeError(
            f"{counted(len(alone), 'picture')} {agreeing(len(alone), 'has', 'have')} no partner of the same prompt and "
            f"seed in the other folder, the first of them {alone[0].path.name} ('{alone[0].prompt}', "
            f"seed {alone[0].seed}); draw both folders from one list of prompts."
        )
    if many:
        raise JudgeError(
            f"'{many.prompt}' with seed {many.seed} was drawn more than once in the other folder; keep one of each."
        )
    return [partners[p.key][0] for p in after]
