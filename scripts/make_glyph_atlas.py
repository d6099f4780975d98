"""Draw all glyphs of Canvas from the Noto Color Emoji font (OFL-1.1) into the atlas that ships with the package.

Usage: python scripts/make_glyph_atlas.py /usr/share/fonts/truetype/noto/NotoColorEmoji.ttf
"""

import sys

from PIL import Image, ImageDraw, ImageFont

from excise.canvas import render, world


def main(font_path: str) -> None:
    """Write the atlas with the glyphs in the order of `world.drawables()`."""
    font = ImageFont.truetype(font_path, 109)  # the only bitmap size in the font
    glyphs = list(world.drawables().values())
    side, columns = render.GLYPH, render.COLUMNS
    atlas = Image.new("RGBA", (columns * side, -(-len(glyphs) // columns) * side))
    for i, glyph in enumerate(glyphs):
        tile = Image.new("RGBA", (136, 136))
        ImageDraw.Draw(tile).text((0, 4), glyph, font=font, embedded_color=True)
        if tile.getbbox() is None:
            raise SystemExit(f"the font draws nothing for {glyph!r}")
        atlas.paste(tile.resize((side, side), Image.Resampling.LANCZOS), ((i % columns) * side, i // columns * side))
    atlas.save(render.ATLAS, optimize=True)


if __name__ == "__main__":
    main(sys.argv[1])
