"""Render images of Canvas: a glyph in a style, with random variation, in numpy, scipy and Pillow.

An image is 64 x 64 RGB, uint8. Scale (0.7-0.95), shift (up to 4 px), mirroring and a pale background are random; all
randomness comes from the generator that is passed in.
"""

from __future__ import annotations

import colorsys
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

from excise.canvas import world

SIZE = 64
GLYPH = 72  # side of one tile of the atlas
COLUMNS = 16
ATLAS = Path(__file__).parent / "assets" / "glyphs.png"

Array = np.ndarray


@lru_cache(maxsize=1)
def _glyphs() -> dict[str, Image.Image]:
    atlas = Image.open(ATLAS).convert("RGBA")
    corners = [((i % COLUMNS) * GLYPH, i // COLUMNS * GLYPH) for i in range(len(world.drawables()))]
    return {
        name: atlas.crop((x, y, x + GLYPH, y + GLYPH)) for name, (x, y) in zip(world.drawables(), corners, strict=True)
    }


def draw(name: str, style: str, rng: np.random.Generator) -> Array:
    """Render `name` in `style` as an image (64, 64, 3), uint8.

    Args:
        name: a key of `world.drawables()`.
        style: one of `world.STYLES`.
        rng: source of the variation and of the style's texture.
    """
    background = _background(rng)
    side = round(SIZE * rng.uniform(0.7, 0.95))
    glyph = _glyphs()[name].resize((side, side), Image.Resampling.BILINEAR)
    if rng.random() < 0.5:
        glyph = glyph.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    x, y = ((SIZE - side) // 2 + rng.integers(-4, 5, size=2)).tolist()
    canvas = Image.new("RGBA", (SIZE, SIZE))
    canvas.paste(glyph, (x, y))
    rgba = np.asarray(canvas, dtype=np.float32) / 255
    alpha = rgba[..., 3:]
    return _apply_style(rgba[..., :3] * alpha + background * (1 - alpha), alpha[..., 0], style, rng)


def draw_empty(style: str, rng: np.random.Generator) -> Array:
    """Render a scene in `style` without an object, (64, 64, 3), uint8."""
    image = np.ones((SIZE, SIZE, 3), dtype=np.float32) * _background(rng)
    return _apply_style(image, np.zeros((SIZE, SIZE), dtype=np.float32), style, rng)


def _background(rng: np.random.Generator) -> Array:
    pale = colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.05, 0.22), rng.uniform(0.92, 1.0))
    return np.array(pale, dtype=np.float32)


def _apply_style(image: Array, alpha: Array, style: str, rng: np.random.Generator) -> Array:
    styled = _FILTERS[style](image, alpha, rng)
    return np.asarray(np.clip(styled * 255 + 0.5, 0, 255), dtype=np.uint8)


def _grey(image: Array) -> Array:
    return image @ np.array([0.299, 0.587, 0.114], dtype=np.float32)


def _edges(image: Array, alpha: Array) -> Array:
    """Return edge strength (H, W) in 0..1: the largest gradient over colour channels and outline."""
    stack = np.concatenate([image * alpha[..., None], alpha[..., None]], axis=-1)
    gx, gy = ndimage.sobel(stack, axis=1), ndimage.sobel(stack, axis=0)
    return np.clip(np.hypot(gx, gy).max(axis=-1) / 2.6, 0, 1) ** 1.3


def _smooth_noise(rng: np.random.Generator, sigma: float) -> Array:
    """Return smooth noise (64, 64) with zero mean and a peak of 1."""
    noise = ndimage.gaussian_filter(rng.standard_normal((SIZE, SIZE)).astype(np.float32), sigma)
    return noise / np.abs(noise).max()


def _plain(image: Array, alpha: Array, rng: np.random.Generator) -> Array:
    return image


def _sketch(image: Array, alpha: Array, rng: np.random.Generator) -> Array:
    line = 1 - 0.9 * _edges(image, alpha)
    return np.repeat((line * rng.uniform(0.95, 1.0))[..., None], 3, axis=-1)


def _pixel(image: Array, alpha: Array, rng: np.random.Generator) -> Array:
    small = Image.fromarray((image * 255).astype(np.uint8)).resize((12, 12), Image.Resampling.BOX)
    return np.asarray(small.resize((SIZE, SIZE), Image.Resampling.NEAREST), dtype=np.float32) / 255


def _neon(image: Array, alpha: Array, rng: np.random.Generator) -> Array:
    vivid = ndimage.maximum_filter(image * alpha[..., None], size=(5, 5, 1))
    vivid = vivid / np.maximum(vivid.max(axis=-1, keepdims=True), 0.2)
    line = _edges(image, alpha)[..., None]
    glow = ndimage.gaussian_filter(line, (1.5, 1.5, 0))
    return np.clip(vivid**2 * (line + 0.5 * glow), 0, 1) + np.array([0.01, 0.0, 0.05], dtype=np.float32)


def _watercolor(image: Array, alpha: Array, rng: np.random.Generator) -> Array:
    flat = ndimage.median_filter(image, size=(5, 5, 1))
    wash = 0.78 * flat + 0.22
    blotch = 0.2 * _smooth_noise(rng, 4.0) * (0.4 + ndimage.gaussian_filter(alpha, 2))
    rim = 0.25 * np.clip(np.hypot(ndimage.sobel(ndimage.gaussian_filter(alpha, 1), 0), ndimage.sobel(alpha, 1)), 0, 1)
    return wash + blotch[..., None] - rim[..., None] * (1 - flat)


def _blueprint(image: Array, alpha: Array, rng: np.random.Generator) -> Array:
    paper = np.array([0.07, 0.22, 0.55], dtype=np.float32) * rng.uniform(0.9, 1.1)
    grid = np.zeros((SIZE, SIZE), dtype=np.float32)
    offset = int(rng.integers(8))
    grid[offset::8, :] = grid[:, offset::8] = 0.12
    ink = np.maximum(_edges(image, alpha), grid)[..., None]
    return paper * (1 - ink) + ink * np.array([0.93, 0.97, 1.0], dtype=np.float32)


def _sepia(image: Array, alpha: Array, rng: np.random.Generator) -> Array:
    grey = _grey(image)[..., None]
    yy, xx = np.mgrid[0:SIZE, 0:SIZE] / (SIZE - 1) - 0.5
    vignette = 1 - 0.7 * (xx**2 + yy**2)
    tone = np.array([0.98, 0.80, 0.55], dtype=np.float32)
    return (0.12 + 0.85 * grey * tone) * vignette[..., None].astype(np.float32)


def _dots(image: Array, alpha: Array, rng: np.random.Generator) -> Array:
    pitch = 4
    small = image.reshape(SIZE // pitch, pitch, SIZE // pitch, pitch, 3).mean(axis=(1, 3))
    cover = ndimage.zoom(alpha, 1 / pitch, order=1)
    radius = np.clip(0.4 + cover + 1.6 * np.sqrt(1 - _grey(small)) * (0.2 + 0.8 * cover), 0.4, 2.4)
    inside = np.arange(SIZE) % pitch - (pitch - 1) / 2
    distance = np.hypot(inside[:, None], inside[None, :])
    upsample = np.ones((pitch, pitch), dtype=np.float32)
    disc = np.clip(np.kron(radius, upsample) - distance + 0.5, 0, 1)[..., None]
    colour = np.kron(small, upsample[..., None]) * 0.8
    return disc * colour + (1 - disc)


def _woodcut(image: Array, alpha: Array, rng: np.random.Generator) -> Array:
    grey = _grey(image) * alpha + (1 - alpha)
    yy, xx = np.mgrid[0:SIZE, 0:SIZE]
    hatch = ((xx + yy + int(rng.integers(5))) % 5) < 2
    dark = (grey < 0.35) | ((grey < 0.72) & hatch) | (_edges(image, alpha) > 0.55)
    # A few diagonal cuts across the paper, as printing blocks leave them.
    dark |= (alpha < 0.1) & (((xx - yy) % 16) == int(rng.integers(16)))
    ink, paper = np.array([0.08, 0.06, 0.05]), np.array([0.96, 0.91, 0.78])
    return ndimage.gaussian_filter(np.where(dark[..., None], ink, paper), (0.4, 0.4, 0))


def _popart(image: Array, alpha: Array, rng: np.random.Generator) -> Array:
    levels = np.round(np.clip((image - 0.5) * 1.3 + 0.5, 0, 1) * 3) / 3
    ground = np.array([[1.0, 0.85, 0.0], [0.0, 0.8, 0.8], [1.0, 0.3, 0.6]], dtype=np.float32)[rng.integers(3)]
    return np.where(alpha[..., None] > 0.5, levels[..., [2, 0, 1]], ground)


_FILTERS = {
    "plain": _plain,
    "sketch": _sketch,
    "pixel": _pixel,
    "neon": _neon,
    "watercolor": _watercolor,
    "blueprint": _blueprint,
    "sepia": _sepia,
    "dots": _dots,
    "woodcut": _woodcut,
    "popart": _popart,
}
