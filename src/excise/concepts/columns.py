"""Lists that people give: a name a line, YAML, or tables, with which column of theirs is meant. No torch here."""

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
KEYS = ("name", "kind", "synonyms", "anchor")  # what an entry of a list may say
SEPARATORS = ",;\t"
# What columns of names are called, in published lists too; of two the earlier is meant.
NAMES = (
    "name", "concept", "artist", "celebrity", "celebrities", "person", "people", "character", "instance", "object",
    "class", "classname", "style", "label", "target", "word", "term", "text",
)  # fmt: skip
PROMPTS = ("prompt", "caption")
_NEAR = 0.8  # as "synonym" and "knd" are to our keys, and "id" is not
_COMMENT = re.compile(r"\s*#(?![,;\t])")  # "#" alone heads a column of numbers
# A mark between names stands before a space, a letter or a quote; that of "&lt;" ends an entity.
_ONE_NAME = re.compile(r"""(?:&(?:#\w+|\w{2,});|[,;](?!\s|[^\W\d]|["'])|[^,;\t])+""")
_LIST_MARK = re.compile(r"""[-*•]\s|\d+[.)]\s|(["']).*\1$""")


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


def read_entries(path: Path, what: str, prompts: bool = False) -> list[Mapping[str, Any]]:
    """The entries of a list, each with the keys it has: `name`, and perhaps `kind`, `synonyms`, `anchor`.

    Text is a name a line. A table (.csv, .tsv) has a header; of one from elsewhere the column that is called so holds
    the names, and what is not ours is passed over and said. YAML (.yaml, .yml, .json) is a list of names or mappings.

    Args:
        what: what is read, for messages: "names from".
        prompts: whether a table may hold whole prompts where it has no names.

    Raises:
        ConceptError: the file cannot be read, holds numbers, or it is not clear which are the names.
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
    """A name a line; empty lines and those that begin with # are left out. Says so where more or less may be meant."""
    names = [line.strip() for line in text.splitlines()]
    names = [name for name in names if name and not name.startswith("#")]
    several = [name for name in names if len(parted(name)) > 1]
    marked = [name for name in names if _LIST_MARK.match(name)]
    advice = {
        "if several are meant, give each a line": several,
        "if its marks are not meant, take them out, or call the file .yaml if it is YAML": marked,
    }
    for instead, found in advice.items():
        if found:
            warnings.warn(
                f"each line of {path} is taken as one name, '{found[0]}' too; {instead}.", ExciseWarning, stacklevel=3
            )
    return names


def parted(text: str) -> list[str]:
    """The names that a text holds if its commas, semicolons and tabs are read as marks between names.

    >>> parted("cat, dog"), parted("&lt;cat&gt;")
    (['cat', 'dog'], ['&lt;cat&gt;'])
    """
    return [part.strip() for part in _ONE_NAME.findall(text) if part.strip()]


def _yaml_entries(content: Any, path: Path) -> list[Mapping[str, Any]]:
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
    """Rows by our keys; equal ones count once, for published tables tell of a name in several rows.

    A column that is nearly called as one of ours is left in, so that whoever reads the keys can refuse it.
    """
    if not table.header:
        return []
    best = name_column(table, prompts)
    keys = _keys(table)
    keys[best] = "name"
    rows = [{key: cell for key, cell in zip(keys, row, strict=True) if key and cell} for _, row in table.rows]
    return list({tuple(row.items()): row for row in rows if row}.values())


def _keys(table: Table) -> list[str]:
    """What each column is called where it is one of ours beside the name, or nearly is; else nothing."""
    called = [cell.casefold() for cell in table.header]
    return [key if difflib.get_close_matches(key, KEYS[1:], n=1, cutoff=_NEAR) else "" for key in called]


def read_table(text: str, path: Path) -> Table:
    """A table from its text; the separator (comma, semicolon, tab) is the one that parts the header.

    Raises:
        ConceptError: it is no table, or a line holds more cells than the header.
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
    lines = ("\n" if _COMMENT.match(line) else line for line in io.StringIO(text))
    rows = csv.reader(lines, delimiter=separator, skipinitialspace=True)
    try:
        for row in rows:
            yield rows.line_num, [re.sub(r"\s+", " ", cell).strip() for cell in row]
    except csv.Error as error:
        raise ConceptError(f"{path}, line {rows.line_num}: {error}. Expected a CSV table.") from error


def name_column(table: Table, prompts: bool = False) -> int:
    """The column that is called so; says which one it is where there are others, or where it could be a name itself.

    Args:
        prompts: whether whole prompts may stand in for names, where there are none.

    Raises:
        ConceptError: none is called so, or two are; it holds numbers; or the header is one name more.
    """
    called = [_plain(cell) for cell in table.header]
    known = [*NAMES, *PROMPTS] if prompts else list(NAMES)
    found = sorted((i for i, name in enumerate(called) if name in known), key=lambda i: known.index(called[i]))
    if not found:
        raise ConceptError(_no_column(table, called, known))
    told = [i for i in found if table.column(i) and not numbers(table.column(i))]
    if not told:
        column = f"the column `{table.header[found[0]]}` of {table.path}"
        check_words(table.column(found[0]), column, "call the column that is meant `name`")
    best = told[0] if told else found[0]
    if table.header[best].casefold() in (name.casefold() for name in table.column(best)):
        raise ConceptError(
            f"the first line of {table.path} looks like one of its names ('{table.header[best]}' stands below it as "
            "well); expected a header, so put `name` above the names."
        )
    _check_once(table, best)
    _say_which(table, called, best)
    return best


def _check_once(table: Table, best: int) -> None:
    """Refuse two columns of one name among those that are read."""
    names = [cell.casefold() for cell in table.header]
    for i, key in enumerate(_keys(table)):
        if (key or i == best) and names.count(names[i]) > 1:
            raise ConceptError(
                f"{table.path} has {names.count(names[i])} columns called `{names[i]}`; leave in the one that is meant."
            )


def _say_which(table: Table, called: Sequence[str], best: int) -> None:
    """Say which column the names are taken from where there are others, or where its header could be a name itself."""
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
    """Whether all are numbers, as a column that counts rows holds them."""
    number = r"[-+]?(\d+([.,]\d*)?|[.,]\d+)(e[-+]?\d+)?"
    return len(names) > 0 and all(re.fullmatch(number, name, re.IGNORECASE) for name in names)


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
