"""Training data of Canvas: a cached pool of renders, and captions for them.

All randomness comes from a numpy generator that the caller seeds, so a batch depends on (seed, step) alone.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from excise.canvas import render, world

Cell = tuple[str, str]


@dataclass(frozen=True)
class Caption:
    """A prompt with the object and the style that it asks for; None means any."""

    text: str
    obj: str | None
    style: str | None

    def matches(self, cell: Cell) -> bool:
        """Return whether an image of `cell` matches this prompt."""
        return self.obj in (None, cell[0]) and self.style in (None, cell[1])


def cells(without: Collection[str] = ()) -> list[Cell]:
    """Return every (name, style) that the models learn: the grid, and the 200 further names in the plain style."""
    grid = [(o, s) for o in world.OBJECTS for s in world.STYLES]
    names = [(n, "plain") for n in world.NAMES]
    return [c for c in grid + names if c[0] not in without and c[1] not in without]


@dataclass(frozen=True)
class Pool:
    """Renders in memory.

    Attributes:
        images: (N, 64, 64, 3) uint8.
        cell_of: (N,) index into `cells` of each image.
        cells: (name, style) pairs.
    """

    images: np.ndarray
    cell_of: np.ndarray
    cells: list[Cell]

    def __post_init__(self) -> None:
        by_cell = [np.flatnonzero(self.cell_of == i) for i in range(len(self.cells))]
        object.__setattr__(self, "_by_cell", by_cell)

    def pick(self, cell_indices: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return a random image index for each cell index."""
        return np.array([rng.choice(self._by_cell[c]) for c in cell_indices])  # type: ignore[attr-defined]


def render_pool(chosen: list[Cell], count: Callable[[Cell], int], seed: int, cache: Path | None = None) -> Pool:
    """Render `count(cell)` images of each cell, or read them from `cache` (.npz) if that exists.

    Args:
        chosen: the cells.
        count: number of images of a cell.
        seed: of all randomness.
        cache: file to write the images to; None writes nothing.
    """
    cell_of = np.concatenate([np.full(count(c), i) for i, c in enumerate(chosen)])
    if cache is not None and cache.exists():
        return Pool(np.load(cache)["images"], cell_of, chosen)
    rng = np.random.default_rng(seed)
    images = np.stack([render.draw(name, style, rng) for name, style in (chosen[i] for i in cell_of)])
    if cache is not None:
        cache.parent.mkdir(parents=True, exist_ok=True)
        np.savez(cache, images=images)
    return Pool(images, cell_of, chosen)


def training_pool(work: Path, without: Collection[str] = (), seed: int = 0) -> Pool:
    """Return the pool for autoencoder, text encoder and denoiser: 100 renders of a grid cell, 80 of a further name."""
    tag = "-".join(["pool", str(seed), *sorted(without)]).replace(" ", "_")
    return render_pool(cells(without), lambda c: 100 if c[0] in world.OBJECTS else 80, seed, work / f"{tag}.npz")


def caption(cell: Cell, rng: np.random.Generator) -> Caption:
    """Return a random training prompt for an image of `cell`.

    An object without a style word means the plain style; a style without an object means any object in that style. A
    fifth of the words with an alias are replaced by one.
    """
    obj, style = cell
    kind = rng.random()
    o, s = _word(obj, rng), _word(style, rng)
    if style == "plain" and kind < (0.5 if obj in world.OBJECTS else 0.85):
        return Caption(_template(world.OBJECT_TEMPLATES, rng).format(o=o), obj, "plain")
    if kind > 0.95 and obj in world.OBJECTS:
        return Caption(_template(world.STYLE_TEMPLATES, rng).format(s=s), None, style)
    return Caption(_template(world.STYLED_TEMPLATES, rng).format(o=o, s=s), obj, style)


def pixels(images: np.ndarray) -> Tensor:
    """Convert images (B, 64, 64, 3), uint8, to pixels (B, 3, 64, 64) in -1..1, channels last in memory."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def _word(concept: str, rng: np.random.Generator) -> str:
    others = world.aliases(concept)
    return others[rng.integers(len(others))] if others and rng.random() < 0.2 else concept


def _template(templates: tuple[str, ...], rng: np.random.Generator) -> str:
    return templates[rng.integers(len(templates))]
