"""Finished attacks on disk: one folder per attack with its pictures, one file per search of the untouched model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from PIL import Image

from excise.attacks.accounting import Outcome
from excise.support.files import make_folder, write_json, write_png

OUTCOME = "outcome.json"


def write_outcome(folder: Path, outcome: Outcome, images: Sequence[Image.Image]) -> None:
    """Write an attack's pictures and then its outcome, whose presence tells that the folder is complete."""
    make_folder(folder)
    for i, image in enumerate(images):
        write_png(folder / f"{i:03d}.png", image, durable=False)
    write_json(folder / OUTCOME, asdict(outcome))


def read_outcome(folder: Path) -> tuple[Outcome, list[Image.Image]] | None:
    """Return an attack's outcome and pictures; None if the folder is incomplete or damaged."""
    try:
        outcome = Outcome(**json.loads((folder / OUTCOME).read_text(encoding="utf-8")))
        images = [Image.open(folder / f"{i:03d}.png").convert("RGB") for i in range(sum(map(len, outcome.shown)))]
    except (OSError, ValueError, TypeError, SyntaxError):  # Pillow raises SyntaxError for some damaged PNG files
        return None
    return outcome, images


def write_search(path: Path, texts: list[str], seconds: float) -> None:
    """Write what a search found, and the seconds that it took."""
    make_folder(path.parent)
    write_json(path, [texts, seconds])


def read_search(path: Path) -> tuple[list[str], float] | None:
    """Return what a search found, and the seconds that it took; None if there is no file or it is damaged."""
    try:
        texts, seconds = json.loads(path.read_text(encoding="utf-8"))
        return [str(text) for text in texts], float(seconds)
    except (OSError, ValueError, TypeError):
        return None
