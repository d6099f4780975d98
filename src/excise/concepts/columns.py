"""Lists of names that users provide: text, YAML, or tables with a column of names. Nothing here imports torch."""

from __future__ import annotations

import csv
import difflib
import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from excise.errors import ConceptError, ExciseWarning

ENDINGS = (".csv", ".tsv")
YAML_ENDINGS = (".yaml", ".yml", ".json")  # JSON reads as YAML
KEYS = ("name", "kind", "synonyms", "anchor")  # keys of an entry
SEPARATORS = ",;\t"
# Headers of columns of names, also in published lists; the earliest in this order wins.
NAMES = (
    "name", "concept", "artist", "celebrity", "celebrities", "person", "people", "character", "instance", "object",
    "class", "classname", "style", "label", "target", "word", "term", "text",
)  # fmt: skip
PROMPTS = ("prompt", "caption")
_NEAR = 0.8  # similarity to a key: "synonym" and "knd" are near one, "id" is not
_COMMENT = re.compile(r"\s*#(?![,;\t])")  # "#" alone heads a column of numbers
# A separator of names stands before a space, a letter or a quote; the one in "&lt;" ends an entity.
_ONE_NAME = re.compile(r"""(?:&(?:#\w+|\w{2,});|[,;](?!\s|[^\W\d]|["'])|[^,;\t])+""")
_LIST_MARK = re.compile(r"""[-*•]\s|\d+[.)]\s|(["']).*\1$""")


@dataclass(frozen=True)
class Table:
    """A table with a header.

    Attributes:
        path: of the file, for messages.
        header: its cells.
        rows: each with its line number and as many cells as the header.
    """

    path: Path
    header: list[str]
    rows: list[tuple[int, list[str]]]

    def column(self, at: int) -> list[str]:
        """The cells of a column that are not empty."""
        return [row[at] for _, row in self.rows if row[at]]


def read_entries(path: Path, what: str, prompts: bool = False) -> list[Mapping[str, Any]]:
    """Read the entries of a list, each with `name` and optionally `kind`, `synonyms` and `anchor`.

    Text has one name a line. A table (.csv, .tsv) has a header; columns with unknown headers are ignored with a
    warning. YAML (.yaml, .yml, .json) is a list of names or of mappings.

    Args:
        what: is read, for messages: "names from".
        prompts: whether a table without names may hold whole prompts instead.

    Raises:
        ConceptError: the file cannot be read, holds numbers, or has no column, or several, that could hold the names.
    """
    from excise.support.strict import parse_yaml, read_text

    text = read_text(path, what, ConceptError)
    ending = path.suffix.lower()
    if ending in ENDINGS:
        return _table_entries(read_table(text, path), prompts)
    if ending in YAML_ENDINGS:
        entries, advice = _yaml_entries(parse_yaml(text, str(path), ConceptError), path), "write names in their place"
    else:
        entries, advice = [{"name": line} for line in read_lines(text, path)], "give a name a line"
    check_words([entry["name"] for entry in entries], str(path), advice)
    return entries


def read_lines(text: str, path: Path) -> list[str]:
    """Read one name a line, without empty lines and comments (#); warn where a line may hold several names or marks."""
    names = [line.strip() for line in text.splitlines()]
    names = [name for name in names if name and not name.startswith("#")]
    several = [name for name in names if len(split_names(name)) > 1]
    marked = [name for name in names if _LIST_MARK.match(name)]
    advice = {
        "if several are meant, give each a line": several,
        "if its marks are not meant, take them out, or call the file .yaml if it is YAML": marked,
    }
    for instead, doubtful in advice.items():
        if doubtful:
            warnings.warn(
                f"each line of {path} is taken as one name, '{doubtful[0]}' too; {instead}.",
                ExciseWarning,
                stacklevel=3,
            )
    return names


def split_names(text: str) -> list[str]:
    """Split a text into names at its commas, semicolons and tabs.

    >>> split_names("cat, dog"), split_names("&lt;cat&gt;")
    (['cat', 'dog'], ['&lt;cat&gt;'])
    """
    return [part.strip() for part in _ONE_NAME.findall(text) if part.strip()]


def _yaml_entries(content: Any, path: Path) -> list[Mapping[str, Any]]:
    """The entries of a YAML list.

    Raises:
        ConceptError: it is no list, or an entry has no name.
    """
    if content is None:
        return []
    if not isinstance(content, list):
        raise ConceptError(
            f"{path} holds {type(content).__name__}; expected a list of names, or of mappings with `name`: "
            "begin each entry with a dash."
        )
    entries = [entry if isinstance(entry, Mapping) else {"name": entry} for entry in content]
    for i, entry in enumerate(entries, start=1):
        if not isinstance(entry.get("name"), str):
            seen = repr(entry["name"]) if "name" in entry else f"the keys {', '.join(map(str, entry)) or '(none)'}"
            raise ConceptError(
                f"{path}, entry {i}: 'name': input should be a valid string, and the entry has {seen}. Put a name in "
                "quotes if it reads as a number, a date, yes or no, or holds a colon."
            )
    return entries


def _table_entries(table: Table, prompts: bool) -> list[Mapping[str, Any]]:
    """The rows of a table by key; equal rows count once, since published tables have a name in several rows.

    A column whose header is nearly a key is retained, so that the caller can refuse it as a misspelling.
    """
    if not table.header:
        return []
    best = name_column(table, prompts)
    keys = _keys(table)
    keys[best] = "name"
    rows = [{key: cell for key, cell in zip(keys, row, strict=True) if key and cell} for _, row in table.rows]
    return list({tuple(row.items()): row for row in rows if row}.values())


def _keys(table: Table) -> list[str]:
    """The key of each column, or a header that is nearly one; "" for the name and for all other columns."""
    headers = [cell.casefold() for cell in table.header]
    return [key if difflib.get_close_matches(key, KEYS[1:], n=1, cutoff=_NEAR) else "" for key in headers]


def read_table(text: str, path: Path) -> Table:
    """Parse a table; its separator (comma, semicolon or tab) is the one that gives the header most cells.

    Raises:
        ConceptError: the text is no table, or a line has more cells than the header.
    """
    separator = max(SEPARATORS, key=lambda s: len(next((c for _, c in _cells(text, s, path) if any(c)), [])))
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
    """The cells of each line, with its number."""
    lines = ("\n" if _COMMENT.match(line) else line for line in io.StringIO(text))
    rows = csv.reader(lines, delimiter=separator, skipinitialspace=True)
    try:
        for row in rows:
            yield rows.line_num, [re.sub(r"\s+", " ", cell).strip() for cell in row]
    except csv.Error as error:
        raise ConceptError(f"{path}, line {rows.line_num}: {error}. Expected a CSV table.") from error


def name_column(table: Table, prompts: bool = False) -> int:
    """Return the number of the column that holds the names.

    Warns which column that is where the table has others, or where its header could itself be a name.

    Args:
        prompts: whether a column of whole prompts may stand in for names.

    Raises:
        ConceptError: no header tells, or two do; the column holds numbers; or its header is one of the names.
    """
    called = [_plain(cell) for cell in table.header]
    known = [*NAMES, *PROMPTS] if prompts else list(NAMES)
    columns = sorted((i for i, name in enumerate(called) if name in known), key=lambda i: known.index(called[i]))
    if not columns:
        raise ConceptError(_no_column(table, called, known))
    with_words = [i for i in columns if table.column(i) and not numbers(table.column(i))]
    if not with_words:
        column = f"the column `{table.header[columns[0]]}` of {table.path}"
        check_words(table.column(columns[0]), column, "call the column that is meant `name`")
    best = (with_words or columns)[0]
    if table.header[best].casefold() in (name.casefold() for name in table.column(best)):
        raise ConceptError(
            f"the first line of {table.path} looks like one of its names ('{table.header[best]}' stands below it as "
            "well); expected a header, so put `name` above the names."
        )
    _check_once(table, best)
    _say_which(table, called, best)
    return best


def _check_once(table: Table, best: int) -> None:
    """Refuse two columns with one header among those that are read."""
    names = [cell.casefold() for cell in table.header]
    for i, key in enumerate(_keys(table)):
        if (key or i == best) and names.count(names[i]) > 1:
            raise ConceptError(
                f"{table.path} has {names.count(names[i])} columns called `{names[i]}`; leave in the one that is meant."
            )


def _say_which(table: Table, called: Sequence[str], best: int) -> None:
    """Warn which column holds the names where there are others, or where its header could itself be a name."""
    alone = len(table.header) == 1 and called[best] not in NAMES[:2]  # "person" may be a name that stands first
    rest = [i for i, key in enumerate(_keys(table)) if i != best and not key and (called[i] or table.column(i))]
    rest.sort(key=lambda i: called[i] not in (*NAMES, *PROMPTS))
    others = [f"`{table.header[i]}`" if called[i] else "a column without a name" for i in rest]
    if others or called[best] in PROMPTS or alone:
        whole = ", each prompt as one name" if called[best] in PROMPTS else ""
        passed = f"; it also has {', '.join(others)}, passed over" if others else ""
        warnings.warn(
            f"the names in {table.path} were taken from its column `{table.header[best]}`{whole}{passed}.",
            ExciseWarning,
            stacklevel=3,
        )


def check_words(names: Sequence[str], what: str, advice: str) -> None:
    """Refuse a list of numbers.

    Raises:
        ConceptError: every one is a number; `advice` says what to do.
    """
    if numbers(names):
        raise ConceptError(f"{what} holds numbers ({', '.join(names[:3])}), not names; {advice}.")


def numbers(names: Sequence[str]) -> bool:
    """Whether all texts are numbers, as in a column of row numbers."""
    number = r"[-+]?(\d+([.,]\d*)?|[.,]\d+)(e[-+]?\d+)?"
    return len(names) > 0 and all(re.fullmatch(number, name, re.IGNORECASE) for name in names)


def _plain(cell: str) -> str:
    """A header without its plural and without "name": "Artist names" becomes "artist"."""
    words = [w for w in re.split(r"[\s_-]+", cell.casefold()) if w]
    words = [w for w in words if w not in ("name", "names")] or words
    name = "_".join(words)
    return next((n for n in (*NAMES, *PROMPTS) if name in (n, f"{n}s", f"{n}es")), name)


def _no_column(table: Table, called: Sequence[str], known: Sequence[str]) -> str:
    """The message for a table in which no column is known to hold names."""
    seen = f"{table.path} has the columns {', '.join(c or '(none)' for c in table.header) or 'none'}"
    if numbers([c for c in table.header if c][:1]):
        seen += ", which look like a row of it"
    elif set(called) & set(PROMPTS):
        seen += ", whole prompts and no names"
    return f"{seen}; expected `name` above the names (or {', '.join(known[1:4])}, class and the like)."
