"""Concepts from a file: a name a line, a CSV table, or YAML. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError, field_validator

from excise.columns import ENDINGS, check_words, name_column, read_lines, read_table
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
    `synonyms` (parted by semicolons) and `anchor`; an empty cell is none; a table from elsewhere, without `name`, has
    the column that is called concept, artist, class or the like. YAML: a list of names, or of mappings with those keys.

    Args:
        kind: of concepts that the file gives none.

    Raises:
        ConceptError: it cannot be read, holds nothing, or a row is wrong; the row is named.
    """
    text = read_text(path, "concepts from", ConceptError)
    readers = {**dict.fromkeys(ENDINGS, _table_rows), ".yaml": _yaml_rows, ".yml": _yaml_rows}
    rows = readers.get(path.suffix.lower(), _text_rows)(text, path)
    found = [row_to_concept(row, f"{path}, entry {i}", kind) for i, row in enumerate(rows, start=1)]
    if not found:
        raise ConceptError(f"{path} holds no concepts; expected one a line, or a table with the column `name`.")
    check_words([c.name for c in found], str(path))
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
    return [{"name": line} for line in read_lines(text, path)]


def _table_rows(text: str, path: Path) -> Iterable[Mapping[str, Any]]:
    """Rows by column. A table of ours is read strictly; of another its names, each once, and what is ours."""
    table = read_table(text, path)
    header = [cell.casefold() for cell in table.header]
    ours = not header or "name" in header
    if not ours:
        header[name_column(table)] = "name"
        header = [key if key in COLUMNS else "" for key in header]
    cells = [[c for c in zip(header, row, strict=True) if c[1] and (ours or c[0])] for _, row in table.rows]
    rows = [dict(row) for row in cells if row]
    return rows if ours else list({row["name"]: row for row in reversed(rows) if "name" in row}.values())[::-1]


def _yaml_rows(text: str, path: Path) -> Iterable[Mapping[str, Any]]:
    content = parse_yaml(text, str(path), ConceptError)
    if not isinstance(content, list):
        raise ConceptError(f"{path} holds {type(content).__name__}; expected a list of names, or of mappings.")
    return [row if isinstance(row, Mapping) else {"name": row} for row in content]
