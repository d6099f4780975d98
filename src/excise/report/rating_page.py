"""The page on which a person says what pictures show: pairs of two models side by side, which is which not told."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from excise.judges.raters import picture_id
from excise.report.html import data_uri
from excise.support.digests import seed_of, short_digest
from excise.support.files import write_new_text


def write_rating_page(pairs: Sequence[tuple[str, Path, Path]], concept: str, path: Path, force: bool = False) -> Path:
    """Write the page, atomically.

    The order of pairs, and which side a model stands on, are shuffled by their content, so that the same request gives
    the same page.

    Args:
        pairs: prompt, and the files of the two pictures.
        concept: that is asked for.
        force: replace another file.

    Raises:
        OutputError: another file stands in its place.
    """
    by_id = {pair["id"]: pair for pair in (_pair(prompt, [a, b]) for prompt, a, b in pairs)}
    shown = [by_id[name] for name in sorted(by_id)]
    data = {"page": short_digest([concept, *(p["id"] for p in shown)], size=8), "concept": concept, "pairs": shown}
    environment = Environment(
        loader=PackageLoader("excise.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    write_new_text(path, environment.get_template("rating.html.j2").render(data=data), force=force)
    return path


def _pair(prompt: str, files: list[Path]) -> dict[str, Any]:
    """One pair as the page holds it."""
    pictures = []
    for file in files:
        with Image.open(file) as image:
            pictures.append({"id": picture_id(image), "src": data_uri(image)})
    name = short_digest(["pair", prompt, *(p["id"] for p in pictures)], size=8)
    random.Random(seed_of("rating", name)).shuffle(pictures)
    return {"id": name, "pictures": pictures}
