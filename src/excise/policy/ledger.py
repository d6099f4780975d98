"""A tamper-evident ledger: JSON lines, each with the hash of the line before.

The number and hash of the last line are also in a file of their own, the head (`ledger.head.json`), which shows when
lines at the end were lost. Someone who can write both files can forge both; a copy of the head kept elsewhere shows
that too.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from excise.errors import ExciseError
from excise.support.digests import digest
from excise.support.files import write_json, write_text

NAME, HEAD = "ledger.jsonl", "ledger.head.json"
_ORIGIN = "0" * 64


class LedgerError(ExciseError):
    """A ledger, or the edit it records, that is not what was written."""


@dataclass(frozen=True)
class Examination:
    """What a ledger holds, and what is wrong with it.

    Attributes:
        entries: those before the first wrong line, oldest first.
        fault: a sentence that names the first wrong line or what else is wrong; empty if the ledger is intact.
    """

    entries: list[dict[str, Any]]
    fault: str = ""


def append(folder: Path, entry: dict[str, Any]) -> dict[str, Any]:
    """Add an entry to the ledger of a folder, after checking the ledger.

    Returns:
        The entry with its number `n`, the hash of the `previous` entry and its own `hash`.

    Raises:
        LedgerError: the ledger was truncated or edited.
    """
    entries = read(folder)
    previous = entries[-1]["hash"] if entries else _ORIGIN
    complete = {"n": len(entries) + 1, **entry, "previous": previous}
    complete["hash"] = _hash(complete)
    lines = [json.dumps(e, ensure_ascii=False, sort_keys=True) for e in (*entries, complete)]
    write_text(folder / NAME, "\n".join(lines) + "\n")
    write_json(folder / HEAD, {"entries": complete["n"], "hash": complete["hash"]})
    return complete


def read(folder: Path) -> list[dict[str, Any]]:
    """Return every entry of a folder's ledger, oldest first; an empty list where there is no ledger.

    An interruption between writing the ledger and its head leaves one line more than the head counts. It is accepted if
    its hash is right.

    Raises:
        LedgerError: a line was changed, lost or added; the first wrong line is named.
    """
    examination = examine(folder)
    if examination.fault:
        raise LedgerError(examination.fault)
    return examination.entries


def examine(folder: Path) -> Examination:
    """Return what `read` returns, and instead of an error the fault with all entries before it."""
    path, head_path = folder / NAME, folder / HEAD
    if not path.exists() and not head_path.exists():
        return Examination([])
    chain = _chain(path)
    if chain.fault:
        return chain
    entries = chain.entries
    try:
        head = _head(head_path)
    except LedgerError as error:
        return Examination(entries, str(error))
    count, head_count = len(entries), head["entries"]
    if head_count not in (count, count - 1) or (head_count and entries[head_count - 1]["hash"] != head["hash"]):
        return Examination(
            entries,
            f"{path} has {count} entries, but its head counts {head_count}: it was truncated or replaced. "
            "Restore the file from a copy.",
        )
    return Examination(entries)


def _chain(path: Path) -> Examination:
    """Return the entries in a file up to the first line that does not fit the chain of hashes."""
    entries: list[dict[str, Any]] = []
    previous = _ORIGIN
    # Not splitlines, which also splits at characters that names may hold.
    content = path.read_bytes() if path.exists() else b""
    lines = content.removesuffix(b"\n").split(b"\n") if content else []
    for n, line in enumerate(lines, start=1):
        try:
            entry = json.loads(line)
            own = entry.pop("hash")
        except (ValueError, KeyError, AttributeError, TypeError):
            return Examination(entries, f"{path}, line {n} is no entry of a ledger. Restore the file from a copy.")
        if entry.get("n") != n or entry.get("previous") != previous or _hash(entry) != own:
            return Examination(
                entries,
                f"{path}, line {n} was changed after it was written, or one before it is missing. "
                "Restore the file from a copy.",
            )
        entries.append({**entry, "hash": own})
        previous = own
    return Examination(entries)


def _head(path: Path) -> dict[str, Any]:
    """Return the number of entries, and the hash of the last one, in a head file."""
    if not path.exists():
        return {"entries": 0, "hash": _ORIGIN}
    try:
        head: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return {"entries": int(head["entries"]), "hash": str(head["hash"])}
    except (ValueError, KeyError, TypeError) as error:
        raise LedgerError(f"{path} is no head of a ledger. Restore the file from a copy.") from error


def _hash(entry: dict[str, Any]) -> str:
    return digest(entry, escape=False)
