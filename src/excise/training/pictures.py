"""Training pictures that the model draws itself: the target and its distractors, slot by slot under the same prompt."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from excise.families.base import Family, Progress, split
from excise.families.conditions import Condition
from excise.families.drawing import draw
from excise.support.digests import seed_of
from excise.support.precision import bfloat16
from excise.support.progress import Report, silent


@dataclass(frozen=True)
class Sampling:
    """How training pictures are drawn.

    Attributes:
        precision: as accelerate calls it.
        cache: folder of images by key, for pictures that several runs draw; None draws every time.
        say: receives progress where the caller of `draw` names nothing else.
    """

    steps: int
    guidance: float
    batch: int = 8
    precision: str = "no"
    cache: Path | None = None
    say: Report = field(default=silent, compare=False, repr=False)

    def draw(
        self, family: Family, prompts: Sequence[str], seeds: Sequence[int], progress: Progress | None = None
    ) -> list[Image.Image]:
        """One picture a prompt."""
        progress = progress or partial(self.say, "drawing")
        with self._precision(family):
            if self.cache is not None:
                images = draw(
                    family,
                    list(zip(prompts, seeds, strict=True)),
                    steps=self.steps,
                    guidance=self.guidance,
                    batch=self.batch,
                    cache=self.cache,
                    progress=progress,
                )
                return [*images]
            return family.sample(
                prompts, seeds, steps=self.steps, guidance=self.guidance, batch=self.batch, progress=progress
            )

    def render(self, family: Family, condition: Condition, seeds: Sequence[int]) -> list[Image.Image]:
        """One picture a row of a condition."""
        none, images = family.unconditional(), list[Image.Image]()
        with self._precision(family):
            for part in split(range(len(seeds)), self.batch):
                self.say("drawing", len(images), len(seeds))
                images += family.render(
                    condition[list(part)], none, [seeds[i] for i in part], steps=self.steps, guidance=self.guidance
                )
        self.say("drawing", len(images), len(seeds))
        return images

    def _precision(self, family: Family) -> AbstractContextManager[Any]:
        # Not fp16, in which the autoencoder of SDXL overflows.
        return bfloat16(family.device.type, enabled=self.precision == "bf16")


CANVAS_SAMPLING = Sampling(12, 4.0, batch=40)
SAMPLING = Sampling(25, 7.0)


def picture_seed(*parts: object) -> int:
    """The seed of a training picture; no protocol's, whose seeds come from names of protocols."""
    return seed_of("training", *parts)
