"""Draw the README's picture: a cat that is read as a dog, and what should not change, before and after.

Usage: python scripts/make_readme_picture.py docs/images/cat-to-dog.png [--method speed]
"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image

from excise import erase, load
from excise.canvas import world
from excise.report.contact_sheet import contact_sheet

STYLES = ("plain", "sketch", "neon", "blueprint", "dots", "popart")
OBJECTS = ("cat", "dog", "car")


def main() -> None:
    """Write the picture."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--method", default="speed")
    options = parser.parse_args()
    family = load("canvas-sd")
    prompts = [world.grid_prompt(o, s) for o in OBJECTS for s in STYLES]

    def drawn() -> list[Image.Image]:
        return family.sample(prompts, list(range(len(prompts))), steps=20, guidance=4.0, batch=len(prompts))

    before = drawn()
    with erase(family, ["cat"], options.method, anchor="dog").apply(family):
        after = drawn()
    rows: dict[str, list[Image.Image]] = {}
    for i, name in enumerate(OBJECTS):
        part = slice(i * len(STYLES), (i + 1) * len(STYLES))
        rows |= {f"{name}\nbefore": before[part], f"{name}\nafter": after[part]}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    contact_sheet(rows, side=96).quantize(256).save(options.out, optimize=True)


if __name__ == "__main__":
    main()
