"""Write files atomically: a reader sees the old content or the new, never a part of it."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from excise.errors import OutputError
from excise.support.headers import sort_metadata

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor


def write_atomically(path: Path, write: Callable[[Path], None], durable: bool = True) -> None:
    """Let `write` fill a temporary file in the folder of `path`, then move it into place.

    On failure `path` stays as it was. Missing parent folders are created.

    Args:
        path: the file to write.
        write: called with the path of the temporary file.
        durable: wait until the content is on the disk; not needed for caches.

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
        os.chmod(partial, 0o666 & ~_umask())  # mkstemp creates private files; results are ordinary ones
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
    """Write `data` as indented JSON, atomically.

    Raises:
        OutputError: as `write_atomically`.
    """
    write_text(path, json.dumps(data, indent=2, ensure_ascii=False) + "\n")


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None, durable: bool = True
) -> None:
    """Write a safetensors file, the same bytes every time. Raises as `write_atomically`, which explains `durable`."""
    from safetensors.torch import save_file

    def write(partial: Path) -> None:
        save_file(dict(tensors), partial, metadata=dict(metadata) if metadata else None)
        if metadata and len(metadata) > 1:
            sort_metadata(partial)

    write_atomically(path, write, durable)


def make_folder(path: Path) -> Path:
    """Create the folder `path` with its parents, or accept an existing one, and return it.

    Raises:
        OutputError: `path` is a file, or the folder is not writable.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise OutputError(f"cannot write to {path}: {_reason(error)}. Choose another --out.") from error
    return path


def resolved(name: Any) -> Path | None:
    """Return the absolute path, links resolved, if `name` is an existing file or folder; else (a hub id) None."""
    return Path(name).resolve() if name and os.path.exists(name) else None


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, atomically.

    Raises:
        OutputError: as `write_atomically`.
    """
    write_atomically(path, lambda p: _write_text(p, text))


def write_new_text(path: Path, text: str, *, force: bool = False) -> None:
    """Write a text file, atomically, where no other stands in its place.

    Args:
        force: replace another file.

    Raises:
        OutputError: the path is a folder, or a file of another content.
    """
    if path.is_dir():
        raise OutputError(f"{path} is a folder; name a file to write.")
    if path.exists() and not force:
        try:
            same = path.read_text(encoding="utf-8") == text
        except (OSError, ValueError):
            same = False
        if not same:
            raise OutputError(f"{path} is there already, with another content; choose another name, or move it away.")
    write_text(path, text)


def write_png(path: Path, image: Image.Image, durable: bool = True) -> None:
    """Write an image as PNG, atomically, whatever the suffix of `path`.

    Raises:
        OutputError: as `write_atomically`.
    """
    write_atomically(path, lambda p: image.save(p, "PNG"), durable)


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
