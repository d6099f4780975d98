"""Writing files so that nothing half-written is ever left behind."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from excise.errors import OutputError


def write_atomically(path: Path, write: Callable[[Path], None], durable: bool = True) -> None:
    """Let `write` fill a temporary file beside `path`, then move it into place; on failure leave what was there.

    Args:
        durable: wait until the disk has it; not needed for what can be made again.

    Raises:
        OutputError: no permission, a full disk, or any other failure of the file system.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(handle)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {_reason(error)}. Choose another --out or free it.") from error
    partial = Path(name)
    try:
        write(partial)
        if durable:
            with partial.open("rb") as file:
                os.fsync(file.fileno())
        os.chmod(partial, 0o666 & ~_umask())  # mkstemp makes private files; ours are ordinary ones
        os.replace(partial, path)
    except Exception as error:
        if isinstance(error, OSError) or type(error).__name__ == "SafetensorError":
            raise OutputError(
                f"writing {path} failed: {_reason(error)}. Nothing was left behind; free some space and run it again."
            ) from error
        raise
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: Path, data: Any) -> None:
    """Write `data` as indented JSON, atomically."""
    write_text(path, json.dumps(data, indent=2, ensure_ascii=False) + "\n")


def make_folder(path: Path) -> Path:
    """Create `path` (or accept an existing folder) and make sure that it can be written to.

    Raises:
        OutputError: it is a file, or may not be written.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise OutputError(f"cannot write to {path}: {_reason(error)}. Choose another --out.") from error
    return path


def resolved(name: Any) -> Path | None:
    """The file or folder that a model is named by, absolute and without links; None of a hub id, or without a name."""
    return Path(name).resolve() if name and os.path.exists(name) else None


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, atomically."""
    write_atomically(path, lambda p: _write_text(p, text))


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
