"""CLIP score on captions of everyday scenes (MS-COCO, a file of the user): what an erasure does to all else."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from excise.errors import ConceptError
from excise.protocols.base import Item, Protocol

FILE = "EXCISE_COCO"
CAPTION, SEED = ("caption", "prompt"), ("seed", "evaluation_seed")  # column names: ours, and those of MACE's files


def coco() -> Protocol:
    """Return the protocol with one image for each caption of the file that EXCISE_COCO names (group `captions`).

    It has no targets: it measures images of prompts that do not ask for an erased concept.

    Raises:
        ConceptError: the file is missing or cannot be read, or a row has no caption or an invalid seed.
    """
    return Protocol(
        name="coco",
        items=tuple(_items(*_read())),
        steps=50,
        guidance=7.5,
        judge="clip-score",
        score="captions",
        labels={},
        groups=("captions",),
        target_groups=("captions",),
        features="clip-image",
        notes={
            "captions": "the user's own file; papers take 1,000 to 30,000 captions of the 2014 validation set",
            "sampler": "ours: 50 steps, guidance 7.5, the model's own scheduler",
            "judge": "scores of two CLIP models are not on one scale; the judge's name says which it was",
        },
    )


def _read() -> tuple[Path, list[Any]]:
    file = os.environ.get(FILE)
    if not file:
        raise ConceptError(
            f"coco reads captions from a CSV or JSON file, and {FILE} names none; set it, for example: "
            f"export {FILE}=~/coco_30k.csv (columns caption and, if you like, seed)"
        )
    path = Path(file).expanduser()
    try:
        text = path.read_text(encoding="utf-8-sig")
        rows = json.loads(text) if path.suffix.lower() == ".json" else list(csv.DictReader(io.StringIO(text)))
    except (OSError, ValueError, csv.Error) as error:
        raise ConceptError(
            f"cannot read captions from {path}, which {FILE} names: {error}. Expected a UTF-8 CSV or JSON file."
        ) from error
    if not isinstance(rows, list) or not rows:
        raise ConceptError(f"{path} holds no captions; expected a CSV header and rows, or a JSON list of objects.")
    return path, rows


def _items(path: Path, rows: list[Any]) -> Iterable[Item]:
    seen: dict[str, int] = {}
    for number, row in enumerate(rows, 1):
        caption = _value(row, CAPTION)
        if not isinstance(caption, str) or not caption.strip():
            raise ConceptError(f"row {number} of {path} has no caption; expected one under 'caption' (or 'prompt').")
        caption = " ".join(caption.split())
        index = seen[caption] = seen.get(caption, -1) + 1
        yield Item("captions", caption, {}, index, seed=_seed(_value(row, SEED), number, path))


def _value(row: Any, names: tuple[str, ...]) -> Any:
    return next((row[n] for n in names if row.get(n) is not None), None) if isinstance(row, dict) else None


def _seed(value: Any, number: int, path: Path) -> int | None:
    if value in (None, ""):
        return None
    try:
        seed = int(str(value))
    except ValueError:
        seed = -1
    if not 0 <= seed < 2**63:
        raise ConceptError(f"row {number} of {path} has the seed {value!r}; expected a whole number from 0, or none.")
    return seed
