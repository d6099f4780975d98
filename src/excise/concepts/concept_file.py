"""Concepts from a file: a name a line, a CSV table, or YAML. Nothing here imports torch."""

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
    `synonyms` (parted by semicolons) and `anchor`; an empty cell is none; a table from elsewhere has the column that is
    called name, concept, artist, class or the like, and its others are passed over and said. YAML: a list of names, or
    of mappings with those keys.

    Args:
        kind: of concepts that the file gives none.

    Raises:
        ConceptError: it cannot be read, holds nothing, or a row is wrong; the row is named.
    """
    entries = read_entries(path, "concepts from")
    if not entries:
        raise ConceptError(
            f"{path} holds no concepts; expected one a line, a table with the column `name`, or a YAML list."
        )
    return [row_to_concept(entry, f"{path}, entry {i}", kind) for i, entry in enumerate(entries, start=1)]


def row_to_concept(row: Mapping[str, Any], where: str, kind: str | None = None) -> Concept:
    """One row of a file as a concept; `where` names it in messages.

    Raises:
        ConceptError: an unknown key, a wrong type, or a name that may not be used.
    """
    try:
        return ConceptRow.model_validate(row).concept(kind)
    except ValidationError as error:
        raise ConceptError(f"{where}: {explain(error, KEYS)} Known keys: {', '.join(KEYS)}.") from error
    except (ConceptError, UnknownNameError) as error:
        raise ConceptError(f"{where}: {error}") from error
