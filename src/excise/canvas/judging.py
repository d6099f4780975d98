"""Train the judges of Canvas on renders, augmented renders, and images without an object for abstention."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from excise.canvas import render, world
from excise.canvas.data import Pool, pixels, render_pool
from excise.canvas.judge_nets import LABELS, NETWORKS
from excise.canvas.loop import Plan, Session, train
from excise.support.precision import fastest

BATCH = 128
NOTHING = 0.3  # share of a batch without any known object
IGNORE = -100  # label of a head for an image without a right answer
SEEDS = {"a": 11, "b": 23}


def judge_pool(work: Path, seed: int) -> Pool:
    """Return renders of all 224 names in all 10 styles, since an edited model may draw any of them.

    Most of them are cells of the grid and names in the plain style, which the protocols ask for.
    """
    every = [(n, s) for n in world.drawables() for s in world.STYLES]
    return render_pool(every, _renders, seed, work / f"judge-pool-{seed}.npz")


def _renders(cell: tuple[str, str]) -> int:
    return 60 if cell[0] in world.OBJECTS else 30 if cell[1] == "plain" else 4


def train_judge(which: str, session: Session, steps: int) -> tuple[nn.Module, float]:
    """Train judge "a" or "b", each with another network, seed (not that of the session) and set of renders.

    Returns:
        The network, and seconds spent, earlier runs included.
    """
    seed, device = SEEDS[which], session.device
    pool = judge_pool(session.work, seed)
    names, styles = list(LABELS["object"]), list(LABELS["style"])
    object_of = np.array([names.index(c[0]) for c in pool.cells])[pool.cell_of]
    style_of = np.array([styles.index(c[1]) for c in pool.cells])[pool.cell_of]
    empty = _empty_scenes(seed)
    torch.manual_seed(seed)
    network = NETWORKS[which]().to(device)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def loss_of(rng: np.random.Generator, generator: torch.Generator) -> Tensor:
        index = rng.integers(len(pool.images), size=BATCH)
        x = pixels(pool.images[index])
        objects, style_labels = torch.from_numpy(object_of[index]), torch.from_numpy(style_of[index])
        _make_nothing(x, objects, style_labels, empty, rng)
        x = _washed_out(x, generator) if which == "a" else x
        x = _augment(x, generator).to(device, memory_format=torch.channels_last)
        with fastest(device):
            object_logits, style_logits = network(x)
        return F.cross_entropy(object_logits.float(), objects.to(device), label_smoothing=0.02) + F.cross_entropy(
            style_logits.float(), style_labels.to(device), ignore_index=IGNORE
        )

    plan = Plan(f"judge-{which}", steps, lr=2e-3, weight_decay=0.05)
    seconds = train(network, loss_of, plan, session.work, seed, session.report)
    return network, seconds


def _empty_scenes(seed: int) -> list[tuple[np.ndarray, int]]:
    """Return scenes without an object, as an edited model may draw them, each with its style label."""
    rng = np.random.default_rng(seed)
    return [(render.draw_empty(s, rng), i) for _ in range(40) for i, s in enumerate(world.STYLES)]


def _make_nothing(
    x: Tensor, objects: Tensor, styles: Tensor, scenes: list[tuple[np.ndarray, int]], rng: np.random.Generator
) -> None:
    """Turn a part of the batch, in place, into images with the object label "none"."""
    count = int(BATCH * NOTHING)
    none_object, none_style = len(LABELS["object"]) - 1, len(LABELS["style"]) - 1
    objects[:count] = none_object
    kinds = rng.integers(4, size=count)
    for i, kind in enumerate(kinds):
        if kind == 0:  # an empty scene keeps its style
            scene, styles[i] = scenes[rng.integers(len(scenes))]
            x[i] = pixels(scene[None])[0]
        elif kind == 1:  # two objects at once
            x[i] = (x[i] + x[BATCH - 1 - i]) / 2
            styles[i] = styles[i] if styles[i] == styles[BATCH - 1 - i] else IGNORE
        elif kind == 2:  # shuffled tiles
            tiles = x[i].reshape(3, 4, 16, 4, 16).permute(1, 3, 0, 2, 4).reshape(16, 3, 16, 16)
            tiles = tiles[torch.from_numpy(rng.permutation(16))]
            x[i] = tiles.reshape(4, 4, 3, 16, 16).permute(2, 0, 3, 1, 4).reshape(3, 64, 64)
            styles[i] = IGNORE
        else:  # noise, coarse or fine
            grain = int(rng.choice([2, 4, 8, 16, 64]))
            noise = torch.from_numpy(rng.standard_normal((1, 3, grain, grain)).astype(np.float32))
            x[i] = F.interpolate(noise, size=(64, 64), mode="bilinear")[0].clamp(-1, 1)
            styles[i] = none_style


def _washed_out(x: Tensor, generator: torch.Generator) -> Tensor:
    """Remove faint detail, as a small autoencoder does: soft-threshold the difference from a blurred image.

    Only judge "a" is trained with it, so that the two judges differ in their errors.
    """
    smooth = F.avg_pool2d(F.pad(x, (2, 2, 2, 2), mode="replicate"), 5, stride=1)
    detail = x - smooth
    limit = (
        0.5
        * torch.rand(len(x), 1, 1, 1, generator=generator)
        * (torch.rand(len(x), 1, 1, 1, generator=generator) < 0.6)
    )
    return smooth + detail.sign() * (detail.abs() - limit).clamp(min=0)


def _augment(x: Tensor, generator: torch.Generator) -> Tensor:
    """Blur half of the images, vary brightness and colour, and add grain, as a small autoencoder distorts images."""
    half = (torch.rand(len(x), 1, 1, 1, generator=generator) < 0.5).float()
    x = torch.lerp(x, F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, stride=1), 0.8 * half)
    x = x * (1 + 0.1 * torch.randn(len(x), 1, 1, 1, generator=generator))
    x = x + 0.08 * torch.randn(len(x), 3, 1, 1, generator=generator)
    grain = 0.12 * torch.rand(len(x), 1, 1, 1, generator=generator)
    return x + grain * torch.randn(x.shape, generator=generator)
