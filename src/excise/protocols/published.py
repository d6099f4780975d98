"""Reading local copies of files that benchmarks publish: what is wrong with one is said in a sentence."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from excise.errors import ConceptError


def named_folder(variable: str, missing: str) -> Path:
    """Return the folder that an environment variable names.

    Args:
        missing: what to say where it names none.

    Raises:
        ConceptError: it names none, or what it names is no folder.
    """
    given = os.environ.get(variable)
    if not given:
        raise ConceptError(missing)
    root = Path(os.path.expanduser(given))
    if not root.is_dir():
        raise ConceptError(f"{variable} is {given}, and there is no such folder. {missing.rsplit('. ', 1)[-1]}")
    return root


def text_of(file: Path) -> str:
    """Return the text of a file.

    Raises:
        ConceptError: it cannot be read.
    """
    try:
        return file.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise ConceptError(f"cannot read {file}: {error}. Expected a UTF-8 file.") from error


def json_of(file: Path, expected: str) -> Any:
    """Return what a JSON file holds.

    Args:
        expected: what it should hold, for the message.

    Raises:
        ConceptError: it cannot be read.
    """
    try:
        return json.loads(text_of(file))
    except (ValueError, RecursionError) as error:
        raise ConceptError(f"cannot read {file} ({error}); expected {expected}.") from error


def rows_of(file: Path, columns: Sequence[str], source: str) -> list[dict[str, str]]:
    """Return the rows of a CSV file with a header, those in which each column has a text.

    Args:
        source: where the file is published, for the message.

    Raises:
        ConceptError: it cannot be read, or a column is missing.
    """
    try:
        reader = csv.DictReader(io.StringIO(text_of(file)))
        there = [name for name in reader.fieldnames or () if name]
        rows = [{c: one_line(row.get(c)) for c in columns} for row in reader]
    except csv.Error as error:
        raise ConceptError(f"cannot read {file}: {error}. Expected a CSV file, a copy of {source}.") from error
    if missing := [c for c in columns if c not in there]:
        raise ConceptError(
            f"{file} has no column {', '.join(missing)}, but {', '.join(there) or 'none'}; expected a copy of {source}."
        )
    return [row for row in rows if all(row.values())]


def one_line(text: object) -> str:
    """Return a text with single spaces; empty for what is no text."""
    return " ".join(text.split()) if isinstance(text, str) else ""


def prompts_in(texts: object) -> list[str] | None:
    """Return the prompts of a JSON list, without empty ones; None for what is no list of texts."""
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        return None
    return [line for text in texts if (line := one_line(text))]
