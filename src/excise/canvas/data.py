"""Training data of Canvas: a cached pool of renders, and captions for them.

Everything is drawn from a numpy generator that the caller seeds, so a batch is a function of (seed, step) alone.
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
    """A prompt and what it asks for; None stands for "anything"."""

    text: str
    obj: str | None
    style: str | None

    def matches(self, cell: Cell) -> bool:
        """Whether an image of `cell` is a right answer to this prompt."""
        return self.obj in (None, cell[0]) and self.style in (None, cell[1])


def cells(without: Collection[str] = ()) -> list[Cell]:
    """Every (name, style) the models learn: the grid, and the names at scale in the plain style."""
    grid = [(o, s) for o in world.OBJECTS for s in world.STYLES]
    names = [(n, "plain") for n in world.NAMES]
    return [c for c in grid + names if c[0] not in without and c[1] not in without]


@dataclass(frozen=True)
class Pool:
    """Renders kept in memory: (N, 64, 64, 3) uint8, and the cell of each."""

    images: np.ndarray
    cell_of: np.ndarray
    cells: list[Cell]

    def __post_init__(self) -> None:
        by_cell = [np.flatnonzero(self.cell_of == i) for i in range(len(self.cells))]
        object.__setattr__(self, "_by_cell", by_cell)

    def pick(self, cell_indices: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """One random image index for each cell index."""
        return np.array([rng.choice(self._by_cell[c]) for c in cell_indices])  # type: ignore[attr-defined]


def render_pool(chosen: list[Cell], count: Callable[[Cell], int], seed: int, cache: Path | None = None) -> Pool:
    """Render `count(cell)` images of each cell; kept in `cache` (.npz) for the next run when a path is given."""
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
    """The pool that autoencoder, text encoder and denoiser learn from: 100 renders a grid cell, 80 a name."""
    tag = "-".join(["pool", str(seed), *sorted(without)]).replace(" ", "_")
    return render_pool(cells(without), lambda c: 100 if c[0] in world.OBJECTS else 80, seed, work / f"{tag}.npz")


def caption(cell: Cell, rng: np.random.Generator) -> Caption:
    """A random training prompt for an image of `cell`.

    An object without a style word means the plain style; a style without an object means any object in it.
    A fifth of the words are replaced by an alias where there is one.
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
    """(B, 64, 64, 3) uint8 to (B, 3, 64, 64) float in -1..1, channels last in memory."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def _word(concept: str, rng: np.random.Generator) -> str:
    others = world.aliases(concept)
    return others[rng.integers(len(others))] if others and rng.random() < 0.2 else concept


def _template(templates: tuple[str, ...], rng: np.random.Generator) -> str:
    return templates[rng.integers(len(templates))]
