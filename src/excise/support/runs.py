"""Run folders: `run.json`, `edit.safetensors`, `report.html`, `images/`."""

from __future__ import annotations

import datetime
import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from PIL import Image

from excise.errors import OutputError
from excise.support.files import make_folder, write_atomically, write_json

EDIT_NAME = "edit.safetensors"
STATES = "states"
SCHEMA = 1


def write_run(folder: Path, verb: str, content: dict[str, Any]) -> Path:
    """Write `run.json`: what was asked, what came out, when and on what."""
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
    path = folder / "run.json"
    write_json(path, {**header, **content})
    return path


def write_images(folder: Path, names: Sequence[str], images: Sequence[Image.Image]) -> Path:
    """Write PNG files under `folder`/images, named by us alone (never by a prompt)."""
    target = make_folder(folder / "images")
    for name, image in zip(names, images, strict=True):
        write_atomically(target / f"{name}.png", lambda p, image=image: image.save(p, "PNG"))  # type: ignore[misc]
    return target


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Keep a second process out of a run folder.

    Raises:
        OutputError: one is already in it.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(out / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise OutputError(f"another process is at work in {out}; wait for it, or choose another --out.") from error
    try:
        yield
    finally:
        lock.release()
