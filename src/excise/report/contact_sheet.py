"""Rows of images with a label each, as one picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from PIL import Image, ImageDraw, ImageFont

GAP, LABEL = 6, 90


def contact_sheet(rows: Mapping[str, Sequence[Image.Image]], side: int = 128) -> Image.Image:
    """Return one RGB picture with a row of images beside each label.

    Args:
        side: of each image, in pixels.
    """
    columns = max(map(len, rows.values()))
    sheet = Image.new("RGB", (LABEL + columns * (side + GAP), len(rows) * (side + GAP)), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(16)
    for i, (label, images) in enumerate(rows.items()):
        y = i * (side + GAP)
        pen.text((GAP, y + side // 2 - 10), label, "black", font)
        for j, image in enumerate(images):
            sheet.paste(
                image.convert("RGB").resize((side, side), Image.Resampling.LANCZOS), (LABEL + j * (side + GAP), y)
            )
    return sheet
