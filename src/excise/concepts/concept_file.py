"""Concepts from a file: one name a line, a CSV table, or YAML. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError, field_validator

from excise.concepts.columns import KEYS, read_entries
from excise.concepts.concept import Concept
from excise.errors import ConceptError, UnknownNameError
from excise.support.strict import Strict, explain


class ConceptRow(Strict, str_strip_whitespace=True):
    """One concept in a file; synonyms are a list, or a text with semicolons between them."""

    name: str
    kind: str | None = None
    synonyms: tuple[str, ...] = ()
    anchor: str | None = None

    @field_validator("synonyms", mode="before")
    @classmethod
    def _split_synonyms(cls, value: Any) -> Any:
        return tuple(s.strip() for s in value.split(";") if s.strip()) if isinstance(value, str) else value

    def concept(self, kind: str | None = None) -> Concept:
        """Return the concept; `kind` is used where the row has none, and "object" where both are missing."""
        return Concept(self.name, self.kind or kind or "object", self.anchor, self.synonyms)


def read_concepts(path: Path, kind: str | None = None) -> list[Concept]:
    """Read concepts from a file.

    Text has one name a line; lines that begin with # are comments. A CSV table has a header with `name` and optionally
    `kind`, `synonyms` (with semicolons between them) and `anchor`; an empty cell means none. In a table of another
    origin, the names are in the column called name, concept, artist, class or the like; other columns are ignored with
    a warning. YAML is a list of names, or of mappings with those keys.

    Args:
        kind: of concepts for which the file has none.

    Raises:
        ConceptError: the file cannot be read, holds nothing, or has a wrong row, which the message names.
    """
    entries = read_entries(path, "concepts from")
    if not entries:
        raise ConceptError(
            f"{path} holds no concepts; expected one a line, a table with the column `name`, or a YAML list."
        )
    return [row_to_concept(entry, f"{path}, entry {i}", kind) for i, entry in enumerate(entries, start=1)]


def row_to_concept(row: Mapping[str, Any], where: str, kind: str | None = None) -> Concept:
    """Return the concept of one row of a file; `where` names the row in messages.

    Raises:
        ConceptError: an unknown key, a wrong type, or a name that may not be used.
    """
    try:
        return ConceptRow.model_validate(row).concept(kind)
    except ValidationError as error:
        raise ConceptError(f"{where}: {explain(error, KEYS)} Known keys: {', '.join(KEYS)}.") from error
    except (ConceptError, UnknownNameError) as error:
        raise ConceptError(f"{where}: {error}") from error
