"""Files of prompts: CSV with a header, a JSON list of objects, or one object a line, under the column names in use."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from excise.errors import ConceptError

# By our name, those in use, the first that a row has: MMA-Diffusion's files hold `target_prompt` and `adv_prompt`,
# Ring-A-Bell's `sensitive prompt`, those of UnlearnDiffAtk and P4D `prompt` and `evaluation_seed`, I2P `sd_seed`.
COLUMNS: Mapping[str, Sequence[str]] = {
    "prompt": ("adv_prompt", "sensitive prompt", "prompt", "caption", "text"),
    "seed": ("seed", "evaluation_seed", "sd_seed"),
    "file": ("file", "file_name", "filename", "image", "path"),
    "name": ("name", "concept", "label", "class"),
    "group": ("group",),
}
MOST_SEED = 2**63


@dataclass(frozen=True)
class Row:
    """A prompt of a file.

    Attributes:
        number: of its row, from 1. name: what its picture should show. group: of a protocol.
        values: every column as it stands in the file.
    """

    number: int
    prompt: str
    seed: int | None
    file: str | None
    name: str | None
    group: str | None
    values: Mapping[str, Any]


def read_prompts(path: Path, needs: Sequence[str] = ("prompt",)) -> list[Row]:
    """Return the rows of a file of prompts, in order.

    Args:
        needs: the columns that may not be missing, by our names.

    Raises:
        ConceptError: the file cannot be read, has no rows or lacks a column, or a row has no prompt or an invalid seed.
    """
    rows = _rows(path)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    for column in needs:
        if not set(COLUMNS[column]) & set(columns):
            raise ConceptError(
                f"{path} has no column '{column}', but {', '.join(columns[:12]) or 'none'}. Known columns: {_known()}."
            )
    return [_row(number, row, path, "prompt" in needs) for number, row in enumerate(rows, 1)]


def prompts_of(variable: str, missing: str) -> list[Row]:
    """Return the rows of the file that an environment variable names.

    Args:
        missing: what to say where it names none.

    Raises:
        ConceptError: it names none, or as `read_prompts`.
    """
    if not (file := os.environ.get(variable)):
        raise ConceptError(missing)
    return read_prompts(Path(file).expanduser())


def write_prompts(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows as the text of a CSV file, with a column for each of their keys."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _rows(path: Path) -> list[dict[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix.lower() == ".json":
            rows = json.loads(text)
        elif path.suffix.lower() == ".jsonl":
            rows = [json.loads(line) for line in text.splitlines() if line.strip()]
        else:
            rows = list(csv.DictReader(io.StringIO(text)))
    except (OSError, ValueError, RecursionError, csv.Error) as error:
        raise ConceptError(f"cannot read prompts from {path}: {error}. Expected a UTF-8 CSV or JSON file.") from error
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise ConceptError(f"{path} holds no rows; expected a CSV header and rows, or a JSON list of objects.")
    return [{str(name).strip().lower(): value for name, value in row.items() if name is not None} for row in rows]


def _row(number: int, row: Mapping[str, Any], path: Path, prompted: bool) -> Row:
    given = {
        ours: next((row[n] for n in names if row.get(n) not in (None, "")), None) for ours, names in COLUMNS.items()
    }
    prompt = given["prompt"]
    if prompted and not (isinstance(prompt, str) and prompt.strip()):
        raise ConceptError(f"row {number} of {path} has no prompt; expected one under {_either('prompt')}.")
    words = {key: None if given[key] is None else " ".join(str(given[key]).split()) for key in ("name", "group")}
    file = None if given["file"] is None else str(given["file"])
    text = " ".join(str(prompt or "").split())
    return Row(number, text, _seed(given["seed"], number, path), file, words["name"], words["group"], dict(row))


def _seed(value: Any, number: int, path: Path) -> int | None:
    if value is None:
        return None
    try:
        seed = int(re.sub(r"\.0+$", "", str(value)))  # programs that allow for missing numbers write 7.0
    except ValueError:
        seed = -1
    if not 0 <= seed < MOST_SEED:
        raise ConceptError(f"row {number} of {path} has the seed {value!r}; expected a whole number from 0, or none.")
    return seed


def _either(column: str) -> str:
    others = [name for name in COLUMNS[column] if name != column]
    return f"'{column}'" + (f" (or {', '.join(map(repr, others))})" if others else "")


def _known() -> str:
    return "; ".join(f"{', '.join(names)}" for names in COLUMNS.values())
