"""Concepts from a file: a name a line, a CSV table, or YAML. Nothing here imports torch."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError, field_validator

from excise.concept import Concept
from excise.errors import ConceptError, UnknownNameError
from excise.strict import Strict, explain, parse_yaml, read_text

COLUMNS = ("name", "kind", "synonyms", "anchor")


class ConceptRow(Strict, str_strip_whitespace=True):
    """One concept as a file tells it; synonyms as a list, or as text parted by semicolons."""

    name: str
    kind: str | None = None
    synonyms: tuple[str, ...] = ()
    anchor: str | None = None

    @field_validator("synonyms", mode="before")
    @classmethod
    def _parted(cls, value: Any) -> Any:
        return tuple(s.strip() for s in value.split(";") if s.strip()) if isinstance(value, str) else value

    def concept(self, kind: str | None = None) -> Concept:
        """The concept; `kind` where the row has none, else object."""
        return Concept(self.name, self.kind or kind or "object", self.anchor, self.synonyms)


def read_concepts(path: Path, kind: str | None = None) -> list[Concept]:
    """Concepts from a file.

    Text: a name a line, lines that begin with # are comments. CSV: a header with `name` and, if wanted, `kind`,
    `synonyms` (parted by semicolons) and `anchor`; an empty cell is none. YAML: a list of names, or of mappings with
    those keys.

    Args:
        kind: of concepts that the file gives none.

    Raises:
        ConceptError: it cannot be read, holds nothing, or a row is wrong; the row is named.
    """
    text = read_text(path, "concepts from", ConceptError)
    readers = {".csv": _csv_rows, ".yaml": _yaml_rows, ".yml": _yaml_rows}
    rows = readers.get(path.suffix.lower(), _text_rows)(text, path)
    found = [row_to_concept(row, f"{path}, entry {i}", kind) for i, row in enumerate(rows, start=1)]
    if not found:
        raise ConceptError(f"{path} holds no concepts; expected one a line, or a table with the column `name`.")
    return found


def row_to_concept(row: Mapping[str, Any], where: str, kind: str | None = None) -> Concept:
    """One row of a file as a concept; `where` names it in messages.

    Raises:
        ConceptError: an unknown key, a wrong type, or a name that may not be used.
    """
    try:
        return ConceptRow.model_validate(row).concept(kind)
    except ValidationError as error:
        raise ConceptError(f"{where}: {explain(error, COLUMNS)} Known keys: {', '.join(COLUMNS)}.") from error
    except (ConceptError, UnknownNameError) as error:
        raise ConceptError(f"{where}: {error}") from error


def _text_rows(text: str, path: Path) -> Iterable[Mapping[str, Any]]:
    lines = (line.strip() for line in text.splitlines())
    return [{"name": line} for line in lines if line and not line.startswith("#")]


def _csv_rows(text: str, path: Path) -> Iterable[Mapping[str, Any]]:
    rows = csv.DictReader(io.StringIO(text), skipinitialspace=True)
    header = [name.strip() for name in rows.fieldnames or ()]
    if "name" not in header:
        raise ConceptError(
            f"{path} has the columns {', '.join(header) or 'none'}; expected `name`, and if wanted "
            f"{', '.join(COLUMNS[1:])}."
        )
    rows.fieldnames = header
    found = []
    for row in _rows(rows, path):
        if None in row:
            raise ConceptError(
                f"{path}, line {rows.line_num}: more cells than the header has; quote what holds a comma."
            )
        if any(cell and cell.strip() for cell in row.values()):
            found.append({key: cell for key, cell in row.items() if cell and cell.strip()})
    return found


def _rows(rows: csv.DictReader[str], path: Path) -> Iterable[dict[Any, Any]]:
    try:
        yield from rows
    except csv.Error as error:
        raise ConceptError(f"{path}, line {rows.line_num}: {error}. Expected a CSV table.") from error


def _yaml_rows(text: str, path: Path) -> Iterable[Mapping[str, Any]]:
    content = parse_yaml(text, str(path), ConceptError)
    if not isinstance(content, list):
        raise ConceptError(f"{path} holds {type(content).__name__}; expected a list of names, or of mappings.")
    return [row if isinstance(row, Mapping) else {"name": row} for row in content]
