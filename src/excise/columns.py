"""Lists that people give: a name a line, or tables, with which column of theirs is meant. No torch here."""

from __future__ import annotations

import csv
import io
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from excise.errors import ConceptError, ExciseWarning

ENDINGS = (".csv", ".tsv")
SEPARATORS = ",;\t"
# What columns of names are called, in published lists too; of two the earlier is meant.
NAMES = (
    "name", "concept", "artist", "celebrity", "celebrities", "person", "people", "character", "instance", "object",
    "class", "classname", "style", "label", "target", "word", "term", "text",
)  # fmt: skip
PROMPTS = ("prompt", "caption")


@dataclass(frozen=True)
class Table:
    """A table with a header.

    Attributes:
        path: for messages. header: its cells, spaces tidied. rows: each with its line and as many cells as the header.
    """

    path: Path
    header: list[str]
    rows: list[tuple[int, list[str]]]

    def column(self, at: int) -> list[str]:
        """What a column holds, empty cells left out."""
        return [row[at] for _, row in self.rows if row[at]]


def read_lines(text: str, path: Path) -> list[str]:
    """A name a line; empty lines and those that begin with # are left out. Says so where a line looks like several."""
    names = [line.strip() for line in text.splitlines()]
    names = [name for name in names if name and not name.startswith("#")]
    several = [name for name in names if re.search(r"[,;\t]", name)]
    if several:
        warnings.warn(
            f"each line of {path} is taken as one name, '{several[0]}' too; if several are meant, give each a line.",
            ExciseWarning,
            stacklevel=3,
        )
    return names


def read_table(text: str, path: Path) -> Table:
    """A table from its text; the separator (comma, semicolon, tab) is the one that parts the header.

    Raises:
        ConceptError: it is no table, or a line holds more cells than the header.
    """
    separator = max(SEPARATORS, key=lambda s: len(next(_cells(text.lstrip(), s, path), (0, []))[1]))
    lines = [(number, cells) for number, cells in _cells(text, separator, path) if any(cells)]
    if not lines:
        return Table(path, [], [])
    (_, header), *rows = lines
    for number, cells in rows:
        if any(cells[len(header) :]):
            raise ConceptError(f"{path}, line {number}: more cells than the header has; quote what holds a comma.")
    width = len(header)
    return Table(path, header, [(number, (cells + [""] * width)[:width]) for number, cells in rows])


def _cells(text: str, separator: str, path: Path) -> Iterator[tuple[int, list[str]]]:
    rows = csv.reader(io.StringIO(text), delimiter=separator, skipinitialspace=True)
    try:
        for row in rows:
            yield rows.line_num, [re.sub(r"\s+", " ", cell).strip() for cell in row]
    except csv.Error as error:
        raise ConceptError(f"{path}, line {rows.line_num}: {error}. Expected a CSV table.") from error


def name_column(table: Table, prompts: bool = False) -> int:
    """The column that is called so; says which one it is where another could be meant.

    Args:
        prompts: whether whole prompts may stand in for names, where there are none.

    Raises:
        ConceptError: none is called so, it holds numbers, or the header is one name more.
    """
    called = [_plain(cell) for cell in table.header]
    known = [*NAMES, *PROMPTS] if prompts else list(NAMES)
    found = sorted((i for i, name in enumerate(called) if name in known), key=lambda i: known.index(called[i]))
    if not found:
        raise ConceptError(_no_column(table, called, known))
    told = [i for i in found if not numbers(table.column(i))]
    if not told:
        check_words(table.column(found[0]), f"the column `{table.header[found[0]]}` of {table.path}")
    best = told[0] if told else found[0]
    if table.header[best].casefold() in (name.casefold() for name in table.column(best)):
        raise ConceptError(
            f"the first line of {table.path} looks like one of its names ('{table.header[best]}' stands below it as "
            "well); expected a header, so put `name` above the names."
        )
    alone = len(table.header) == 1 and called[best] not in NAMES[:2]  # "person" may be a name that stands first
    if len(told) > 1 or called[best] in PROMPTS or alone:
        others = "".join(f"; it also has `{table.header[i]}`" for i in told[1:2])
        whole = ", each prompt as one name" if called[best] in PROMPTS else ""
        warnings.warn(
            f"the names in {table.path} were taken from its column `{table.header[best]}`{whole}{others}.",
            ExciseWarning,
            stacklevel=3,
        )
    return best


def check_words(names: Sequence[str], what: str) -> None:
    """Refuse a list of numbers.

    Raises:
        ConceptError: every one is a number.
    """
    if numbers(names):
        raise ConceptError(
            f"{what} holds numbers ({', '.join(names[:3])}), not names; call the column that is meant `name`, "
            "or give a name a line."
        )


def numbers(names: Sequence[str]) -> bool:
    """Whether all are numbers, as a column that counts rows holds them."""
    return len(names) > 0 and all(re.fullmatch(r"[-+]?\d+([.,]\d+)?", name) for name in names)


def _plain(cell: str) -> str:
    """What a column is called, the plural and a "name" beside it left out: "Artist names" is "artist"."""
    words = [w for w in re.split(r"[\s_-]+", cell.casefold()) if w]
    words = [w for w in words if w not in ("name", "names")] or words
    name = "_".join(words)
    return next((n for n in (*NAMES, *PROMPTS) if name in (n, f"{n}s", f"{n}es")), name)


def _no_column(table: Table, called: Sequence[str], known: Sequence[str]) -> str:
    seen = f"{table.path} has the columns {', '.join(c or '(none)' for c in table.header) or 'none'}"
    if numbers([c for c in table.header if c][:1]):
        seen += ", which look like a row of it"
    elif set(called) & set(PROMPTS):
        seen += ", whole prompts and no names"
    return f"{seen}; expected `name` above the names (or {', '.join(known[1:4])}, class and the like)."
