"""Draw the README's picture from a demo run: rows of the target and of two retained objects, before and after.

Usage: python scripts/make_readme_picture.py runs/demo docs/images/demo.png
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from excise.canvas import world

SIDE, GAP, LABEL = 96, 6, 22
COLUMNS = ("plain", "sketch", "neon", "blueprint", "dots", "popart")
RETAINED = ("dog", "car")


def main(run: Path, out: Path) -> None:
    """Write the picture `out` from the run folder `run`."""
    cells = [(o, s) for o in world.OBJECTS for s in world.STYLES]
    target = next(o for o in world.OBJECTS if (run / o).is_dir())
    rows = [(name, folder) for name in (target, *RETAINED) for folder in (run, run / target)]
    width = 150 + len(COLUMNS) * (SIDE + GAP)
    sheet = Image.new("RGB", (width, LABEL + len(rows) * (SIDE + GAP)), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(15)
    for j, style in enumerate(COLUMNS):
        pen.text((150 + j * (SIDE + GAP), 2), style, "black", font)
    for i, (name, folder) in enumerate(rows):
        y = LABEL + i * (SIDE + GAP)
        pen.text((4, y + 30), f"{name}\n{'before' if folder == run else 'after'}", "black", font)
        for j, style in enumerate(COLUMNS):
            image = Image.open(folder / "images" / f"{cells.index((name, style)):04d}.png")
            sheet.paste(image.resize((SIDE, SIDE), Image.Resampling.LANCZOS), (150 + j * (SIDE + GAP), y))
    out.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(out, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
