"""A ledger: JSON lines, each carrying the hash of the one before, so that nothing in it changes unnoticed.

The number and hash of the last line are kept apart from it (`ledger.head.json`): a ledger that lost its end is told by
that. Whoever can write both files can forge both; keep a copy of the head elsewhere to be safe from that as well.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from excise.errors import ExciseError
from excise.support.digests import digest
from excise.support.files import write_json, write_text

NAME, HEAD = "ledger.jsonl", "ledger.head.json"
_ORIGIN = "0" * 64


class LedgerError(ExciseError):
    """A ledger that is not what was written."""


def append(folder: Path, entry: dict[str, Any]) -> dict[str, Any]:
    """Add an entry; the ledger that is there is checked first.

    Returns:
        The entry with its number `n`, the hash of the `previous` one and its own `hash`.

    Raises:
        LedgerError: what is there was truncated or edited.
    """
    entries = read(folder)
    previous = entries[-1]["hash"] if entries else _ORIGIN
    whole = {"n": len(entries) + 1, **entry, "previous": previous}
    whole["hash"] = _hash(whole)
    lines = [json.dumps(e, ensure_ascii=False, sort_keys=True) for e in (*entries, whole)]
    write_text(folder / NAME, "\n".join(lines) + "\n")
    write_json(folder / HEAD, {"entries": whole["n"], "hash": whole["hash"]})
    return whole


def read(folder: Path) -> list[dict[str, Any]]:
    """Every entry, oldest first; none where there is no ledger.

    One line more than the head tells of is taken for a stop between the two files, if its hash is right.

    Raises:
        LedgerError: a line was changed, lost or added; the first wrong line is named.
    """
    path, head = folder / NAME, folder / HEAD
    if not path.exists() and not head.exists():
        return []
    wanted = _head(head)
    entries: list[dict[str, Any]] = []
    previous = _ORIGIN
    # Not splitlines: names may hold what it takes for the end of a line.
    content = path.read_bytes() if path.exists() else b""
    lines = content.removesuffix(b"\n").split(b"\n") if content else []
    for n, line in enumerate(lines, start=1):
        try:
            entry = json.loads(line)
            own = entry.pop("hash")
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise LedgerError(f"{path}, line {n} is no entry of a ledger. Restore the file from a copy.") from error
        if entry.get("n") != n or entry.get("previous") != previous or _hash(entry) != own:
            raise LedgerError(
                f"{path}, line {n} was changed after it was written, or one before it is missing. "
                "Restore the file from a copy."
            )
        entries.append({**entry, "hash": own})
        previous = own
    known = [len(entries), len(entries) - 1]
    if wanted["entries"] not in known or (
        wanted["entries"] and entries[wanted["entries"] - 1]["hash"] != wanted["hash"]
    ):
        raise LedgerError(
            f"{path} has {len(entries)} entries, its head tells of {wanted['entries']}: it was truncated or replaced. "
            "Restore the file from a copy."
        )
    return entries


def _head(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {"entries": 0, "hash": _ORIGIN}
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return {"entries": int(found["entries"]), "hash": str(found["hash"])}
    except (ValueError, KeyError, TypeError) as error:
        raise LedgerError(f"{path} is no head of a ledger. Restore the file from a copy.") from error


def _hash(entry: dict[str, Any]) -> str:
    return digest(entry, escape=False)
