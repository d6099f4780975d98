"""Where the latents of a distilled method come from: sampling that is under way, or noise on drawn pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from excise.families.trajectories import denoise_along
from excise.training.adapters import Weights
from excise.training.blocks import Batch, Noised, Prompts, Rows

WHOLE = (0.0, 1.0)  # of a sampler's steps
Block = Callable[[], AbstractContextManager[None]]


class Source(Protocol):
    """Draws the batches that a loss is computed on."""

    def batch(self, generator: torch.Generator) -> Batch:
        """Draw a batch."""


@dataclass(frozen=True)
class Pictures:
    """Pictures that the untouched model drew: (n, c, h, w) latents, and their n prompts."""

    latents: Tensor
    prompts: Prompts

    def noised(
        self, weights: Weights, rows: Tensor, generator: torch.Generator, window: tuple[float, float] = WHOLE
    ) -> Noised:
        """Some of them, noised to times all over the schedule, or within shares of the way from noise to picture."""
        plan, clean = weights.family.noising, self.latents[rows]
        noise = torch.randn(clean.shape, generator=generator)
        t = plan.times(len(rows), generator=generator)
        first, last = (1 - share for share in reversed(window))
        t = (first * plan.levels + (last - first) * t).to(t.dtype) if window != WHOLE else t
        where = weights.family.device
        x, true = plan.add(clean, noise, t).to(where), plan.target(clean, noise, t).to(where)
        return Noised(x, t.to(where), self.prompts[rows], true)


@dataclass(frozen=True)
class Kept:
    """What is to be retained: prompts, and pictures of them where there are any.

    Attributes:
        prompts: at the target's latents the student is held to what the teacher predicts under them.
        pictures: in place of that, the student is held to the pictures' own noise.
    """

    prompts: Prompts | None = None
    pictures: Pictures | None = None

    def rows(self, count: int, generator: torch.Generator) -> Rows | None:
        """Draw prompts to retain, one for each latent of a batch."""
        if self.prompts is None:
            return None
        return self.prompts[torch.randint(len(self.prompts.frozen), (count,), generator=generator)]

    def noised(self, weights: Weights, count: int, generator: torch.Generator) -> Noised | None:
        """Draw pictures to retain, and noise them."""
        if self.pictures is None:
            return None
        rows = torch.randint(len(self.pictures.latents), (count,), generator=generator)
        return self.pictures.noised(weights, rows, generator)


NOTHING_KEPT = Kept()


@dataclass(frozen=True)
class Way:
    """Latents at stops on their way from noise to picture.

    Attributes:
        rows: (n,) which of the target's prompts they are denoised under.
        done: sampling steps before each of k stops.
        latents: (k, n, c, h, w). times: (k, n) timestep of the step that comes next.
    """

    rows: Tensor
    done: Sequence[int]
    latents: Tensor
    times: Tensor


class Pool:
    """Keeps a way of each target, at whose stops several passes stand one after another before the next is denoised.

    Args:
        reuse: how many passes.
    """

    def __init__(self, reuse: int) -> None:
        self._reuse = reuse
        self._ways: dict[int, tuple[Way, int]] = {}  # with the passes that each has left

    def way(self, number: int, draw: Callable[[], Way]) -> Way:
        """The way at hand of a target, or a new one where it has served."""
        way, left = self._ways.get(number) or (draw(), self._reuse)
        self._ways[number] = (way, left - 1)
        if left == 1:
            del self._ways[number]
        return way

    def state_dict(self) -> dict[str, Any]:
        """The ways at hand."""
        return {"ways": [(number, dict(vars(way)), left) for number, (way, left) in self._ways.items()]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with ways."""
        self._ways = {number: (Way(**way), left) for number, way, left in state["ways"]}


@dataclass(frozen=True)
class Trajectories:
    """Draws batches: one target a batch, latents after a random number of sampling steps under its prompts.

    Attributes:
        concepts, anchors: by target.
        empty: for the unconditional half of guidance.
        kept: what is to be retained.
        size: latents in a batch.
        by: whether the model in training or the untouched one denoises the latents.
        steps, guidance: of the sampler.
        window: shares of the sampler's steps between which it stops.
        sampled_with: a block around the model in training while it denoises, for a running mean of it.
        untouched: a block in which the model is without the closed form that training starts from, if there is one.
        pool: of ways that serve several batches; None denoises for each.
        matched: whether a batch stands at the timestep of its latents; False denoises them to the end and draws a
            timestep beside, the defect of a published program (EraseAnything).
    """

    weights: Weights
    concepts: Sequence[Prompts]
    anchors: Sequence[Prompts]
    empty: Prompts
    kept: Kept
    size: int
    by: Literal["student", "teacher"]
    steps: int
    guidance: float
    window: tuple[float, float] = WHOLE
    sampled_with: Callable[[], AbstractContextManager[None]] = nullcontext
    matched: bool = True
    untouched: Block = nullcontext
    pool: Pool | None = None

    def batch(self, generator: torch.Generator) -> Batch:
        """Draw a batch."""
        family, n = self.weights.family, self.size
        i = int(torch.randint(len(self.concepts), (1,), generator=generator))
        way = self._way(i, generator) if self.pool is None else self.pool.way(i, lambda: self._way(i, generator))
        at = int(torch.randint(len(way.done), (1,), generator=generator)) if self.pool else 0
        x, t, concept = way.latents[at], way.times[at], self.concepts[i][way.rows]
        retain = self.kept.rows(n, generator)
        if not self.matched:
            t = family.noising.times(n, generator=generator)
        kept = self.kept.noised(self.weights, n, generator)
        known: dict[str, Any] = {
            "progress": way.done[at] / self.steps,
            "untouched": self.untouched,
            "number": i,
        }
        anchor, empty = self.anchors[i][way.rows], self.empty[torch.zeros(n, dtype=torch.long)]
        return Batch(self.weights, x, t, concept, anchor, empty, retain, kept=kept, **known)

    def _way(self, i: int, generator: torch.Generator) -> Way:
        """Denoise under prompts of a target to a random stop, or for a pool past all of them."""
        family, n = self.weights.family, self.size
        rows = torch.randint(len(self.concepts[i].frozen), (n,), generator=generator)
        stops = self._stops(generator)
        noise = torch.randn(n, *family.latent_shape, generator=generator)
        concept, empty = self.concepts[i][rows], self.empty[torch.zeros(n, dtype=torch.long)]
        frozen = self.by == "teacher"
        with torch.no_grad(), self.weights.teacher() if frozen else self.sampled_with(), self._before(frozen):
            c, free = (r.teacher if frozen else r.student for r in (concept, empty))
            passed = denoise_along(family, c, free, noise, steps=self.steps, stops=stops, guidance=self.guidance)
        return Way(rows, stops, *(torch.stack(parts) for parts in zip(*passed, strict=True)))

    def _before(self, frozen: bool) -> AbstractContextManager[None]:
        """The untouched model, where it is the one that denoises."""
        return self.untouched() if frozen else nullcontext()

    def _stops(self, generator: torch.Generator) -> list[int]:
        """After how many steps the sampler stops; after all of them where latents and timestep do not match."""
        first, last = (round(share * self.steps) for share in self.window)
        if self.pool is not None:
            return list(range(first, max(last, first + 1)))
        done = first + int(torch.randint(max(1, last - first), (1,), generator=generator))
        return [done] if self.matched else [self.steps]


@dataclass(frozen=True)
class NoisedPictures:
    """Draws batches: one target a batch, noised pictures of it or of its anchor, and the target's prompts for them.

    Attributes:
        concepts, anchors: by target, a prompt for each of its pictures.
        latents: by target, (n, c, h, w) of its pictures.
        empty, kept, size, untouched: as of `Trajectories`. window: shares of the way from noise to picture.
    """

    weights: Weights
    concepts: Sequence[Prompts]
    anchors: Sequence[Prompts]
    latents: Sequence[Tensor]
    empty: Prompts
    kept: Kept
    size: int
    window: tuple[float, float] = WHOLE
    untouched: Block = nullcontext

    def batch(self, generator: torch.Generator) -> Batch:
        """Draw a batch."""
        i = int(torch.randint(len(self.concepts), (1,), generator=generator))
        rows = torch.randint(len(self.latents[i]), (self.size,), generator=generator)
        shown = Pictures(self.latents[i], self.concepts[i]).noised(self.weights, rows, generator, self.window)
        empty = self.empty[torch.zeros(self.size, dtype=torch.long)]
        retain = self.kept.rows(self.size, generator)
        kept = self.kept.noised(self.weights, self.size, generator)
        x, t, anchor = shown.x_t, shown.t, self.anchors[i][rows]
        known: dict[str, Any] = {"untouched": self.untouched, "number": i}
        return Batch(self.weights, x, t, shown.prompts, anchor, empty, retain, shown.true, kept, **known)
