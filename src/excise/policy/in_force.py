"""The edit in force of a policy's folder: put in place together with its ledger entry, and repaired from a copy."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from excise.errors import ExciseWarning
from excise.policy import ledger
from excise.policy.ledger import LedgerError
from excise.support.digests import file_digest
from excise.support.files import write_atomically
from excise.support.runs import EDIT_NAME

if TYPE_CHECKING:
    from excise.edits.edit import Edit

EDITS = "edits"
"""Folder of the edits of single groups, and of a copy of every edit that was in force."""


def commit(folder: Path, edit: Edit | None, entry: dict[str, Any]) -> dict[str, Any]:
    """Put an edit in force: write a copy of it, the ledger entry, and then the edit itself.

    After an interruption at any point, `check_in_force` completes it.

    Args:
        folder: of the policy's results.
        edit: None where the policy removes nothing.
        entry: the ledger entry, without the digest of the edit.

    Returns:
        The entry as it is in the ledger.
    """
    if edit is None:
        complete = ledger.append(folder, {**entry, "edit": None})
        (folder / EDIT_NAME).unlink(missing_ok=True)
        return complete
    written = edit.save(folder / EDITS / "new.safetensors")
    digest = file_digest(written)
    os.replace(written, _copy_path(folder, digest))
    complete = ledger.append(folder, {**entry, "edit": digest})
    _restore(folder, digest)
    return complete


def check_in_force(folder: Path, last: Mapping[str, Any] | None) -> None:
    """Check that the edit in the folder is that of the last ledger entry; otherwise restore that one from its copy.

    An edit that is not the ledger's is kept under another name, and a warning tells of it.

    Raises:
        LedgerError: there is no intact copy.
    """
    path, wanted = folder / EDIT_NAME, last["edit"] if last else None
    present = file_digest(path) if path.exists() else None
    if present == wanted:
        return
    if last is None or (wanted and not _is_intact(_copy_path(folder, wanted), wanted)):
        problem = "is missing" if present is None else "is not the edit in the ledger"
        raise LedgerError(f"{path} {problem}, and there is no copy of that one. Restore it, or choose another --out.")
    kept_as = ""
    if present:
        other = path.with_name(f"found-{present[:16]}.safetensors")
        os.replace(path, other)
        kept_as = f" and the other one kept as {other.name}"
    if wanted:
        _restore(folder, wanted)
    warnings.warn(
        f"{path} was not the edit in the ledger; that one was restored{kept_as}.", ExciseWarning, stacklevel=3
    )


def edit_fault(folder: Path, last: Mapping[str, Any]) -> str:
    """Return what is wrong with the edit in a folder, compared with the last ledger entry; empty if nothing is."""
    path, recorded = folder / EDIT_NAME, last["edit"]
    present = file_digest(path) if path.exists() else None
    if present == recorded:
        return ""
    if present is None:
        return f"the edit of entry {last['n']} is not in this folder."
    return f"{path} is not the edit of entry {last['n']}; `excise apply` puts that one back from its copy."


def _is_intact(path: Path, digest: str) -> bool:
    return path.exists() and file_digest(path) == digest


def _restore(folder: Path, digest: str) -> None:
    """Put the copy with that digest in place."""
    content = _copy_path(folder, digest).read_bytes()

    def write(path: Path) -> None:
        path.write_bytes(content)

    write_atomically(folder / EDIT_NAME, write)


def _copy_path(folder: Path, digest: str) -> Path:
    """Return where the copy of an edit that was in force is, by its digest."""
    return folder / EDITS / f"in-force-{digest[:32]}.safetensors"
