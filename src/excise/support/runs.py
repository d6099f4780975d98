"""Write run folders, which hold `run.json`, `edit.safetensors`, `report.html` and `images/`."""

from __future__ import annotations

import datetime
import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from excise.errors import OutputError
from excise.support.files import make_folder, write_json, write_png

if TYPE_CHECKING:
    from PIL import Image

EDIT_NAME = "edit.safetensors"
RUN_NAME = "run.json"
LOCK = ".lock"
STATES = "states"
SHOWN = ("report.html", "images")  # of a run that makes an edit; they are written before it
SCHEMA = 1


def edit_path(path: str | Path) -> Path:
    """Return the edit file that a path names: itself, or the edit in a run folder."""
    path = Path(path)
    return path / EDIT_NAME if path.is_dir() else path


def write_run(folder: Path, verb: str, content: dict[str, Any]) -> Path:
    """Write `run.json` into `folder`: a header (date, versions, platform, threads) and `content`.

    Args:
        verb: the command, for example "erase".
        content: request and results of the command, as JSON.

    Raises:
        OutputError: the file cannot be written.
    """
    import torch

    header = {
        "schema_version": SCHEMA,
        "verb": verb,
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "excise": version("excise"),
        "environment": {
            "python": platform.python_version(),
            "platform": platform.platform(),
            "threads": torch.get_num_threads(),
            **{p: version(p) for p in ("torch", "diffusers", "transformers")},
        },
    }
    path = folder / RUN_NAME
    write_json(path, {**header, **content})
    return path


def write_images(folder: Path, names: Sequence[str], images: Sequence[Image.Image]) -> Path:
    """Write `images` as `folder`/images/<name>.png and return that folder.

    Args:
        names: one file stem an image; words of a user's only as `excise.support.slugs.slug` gives them.

    Raises:
        OutputError: a file cannot be written.
    """
    target = make_folder(folder / "images")
    for name, image in zip(names, images, strict=True):
        write_png(target / f"{name}.png", image)
    return target


@contextmanager
def run_folder(out: Path, begun: Sequence[str] = ()) -> Iterator[None]:
    """Make a run folder and hold its lock inside the block; where the block fails, it is as `new_folder` leaves it.

    Raises:
        OutputError: it cannot be written, or another process holds the lock.
    """
    with new_folder(out, (LOCK, *begun)), locked(out):
        yield


@contextmanager
def new_folder(out: Path, begun: Sequence[str] = ()) -> Iterator[None]:
    """Make a folder; where the block fails and no file was written, what was made goes again.

    Args:
        begun: names of files and folders that are worth nothing alone.

    Raises:
        OutputError: it cannot be written.
    """
    new = [folder for folder in (out, *out.parents) if not folder.exists()]
    there = set() if new else set(out.iterdir() if out.is_dir() else ())
    make_folder(out)
    try:
        yield
    except BaseException:
        entries = [path for path in out.iterdir() if path not in there]
        made = sorted({*entries, *(p for entry in entries for p in entry.rglob("*"))}, reverse=True)  # the inner first
        if all(path.is_dir() or path.relative_to(out).parts[0] in begun for path in made):
            with suppress(OSError):  # another process has begun to write there
                for path in made:
                    path.rmdir() if path.is_dir() else path.unlink(missing_ok=True)
                for folder in new:
                    folder.rmdir()
        raise


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Hold the lock of a run folder inside the block, so that no second process writes to it.

    Raises:
        OutputError: another process holds the lock.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(out / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise OutputError(f"another process is at work in {out}; wait for it, or choose another --out.") from error
    try:
        yield
    finally:
        lock.release()
