"""What the loss of a distilled method is computed on: latents, prompts, the student and its teacher."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from excise.families.base import Family
from excise.families.conditions import Condition
from excise.families.trajectories import partial_denoise
from excise.training.adapters import Weights
from excise.training.losses import mse


@dataclass(frozen=True)
class Prompts:
    """Prompts in one part of a method: the concept's, the anchor's, the empty one, or those to retain.

    Attributes:
        frozen: (n) conditions by the untouched text encoders.
        encode: conditions of some of the prompts by the text encoders as they are now, with gradients; None where no
            text encoder is trained.
        words: (n, L) the tokens of the words that each prompt is about; None where the method does not ask for them.
    """

    frozen: Condition
    encode: Callable[[Sequence[int]], Condition] | None = None
    words: Tensor | None = None

    def __getitem__(self, rows: Tensor) -> Rows:
        return Rows(self, rows)


@dataclass(frozen=True)
class Rows:
    """Some of the prompts, one for each latent of a batch."""

    prompts: Prompts
    rows: Tensor

    @property
    def teacher(self) -> Condition:
        """(B) conditions by the untouched text encoders."""
        return self.prompts.frozen[self.rows]

    @property
    def student(self) -> Condition:
        """(B) conditions by the text encoders as they are now, with gradients where they are trained."""
        return self.teacher if self.prompts.encode is None else self.prompts.encode(self.rows.tolist())

    @property
    def words(self) -> Tensor:
        """(B, L) the tokens of the words that each prompt is about.

        Raises:
            ValueError: the method did not ask for them.
        """
        if self.prompts.words is None:
            raise ValueError("the words of these prompts were not looked up")
        return self.prompts.words[self.rows]


def prompts_of(weights: Weights, texts: Sequence[str], subjects: Sequence[str] | None = None) -> Prompts:
    """Prompts for a training of `weights`.

    Args:
        subjects: the words that each is about, where the method asks for their tokens.
    """
    family, texts, words = weights.family, list(texts), None
    with weights.teacher():
        frozen = family.condition(texts)
        if subjects is not None:
            words = family.encode(texts, list(subjects)).chosen(range(len(texts)), "subject")
    if not weights.text_encoders:
        return Prompts(frozen, words=words)
    return Prompts(frozen, lambda rows: family.live_condition([texts[i] for i in rows]), words)


def empty_prompt(weights: Weights) -> Prompts:
    """The unconditional half of guidance as the one row of its part; no gradients flow through it."""
    family = weights.family
    with weights.teacher():
        frozen = family.unconditional()
    if not weights.text_encoders:
        return Prompts(frozen)
    return Prompts(frozen, lambda rows: family.unconditional()[list(rows)])


@dataclass(frozen=True)
class Batch:
    """Latents that the model is in the middle of denoising, and prompts for them.

    Attributes:
        x_t: (B, c, h, w). t: (B,) the timestep at which they stand.
        concept, anchor, empty: B prompts each.
        retain: B prompts to retain; None where the training has none.
    """

    weights: Weights
    x_t: Tensor
    t: Tensor
    concept: Rows
    anchor: Rows
    empty: Rows
    retain: Rows | None = None

    def student(self, prompts: Rows) -> Tensor:
        """(B, c, h, w) predictions of the model in training."""
        return self.weights.family.predict(self.x_t, self.t, prompts.student)

    def teacher(self, prompts: Rows) -> Tensor:
        """(B, c, h, w) predictions of the untouched model, without gradients."""
        with self.weights.teacher(), torch.no_grad():
            return self.weights.family.predict(self.x_t, self.t, prompts.teacher)

    def retain_loss(self) -> Tensor:
        """Mean squared difference of student and teacher under the prompts to retain.

        Raises:
            ValueError: the batch has no prompts to retain.
        """
        if self.retain is None:
            raise ValueError("this batch has no prompts to retain")
        return mse(self.student(self.retain), self.teacher(self.retain))


@dataclass(frozen=True)
class Trajectories:
    """Draws batches: one target a batch, latents after a random number of sampling steps under its prompts.

    Attributes:
        concepts, anchors: by target.
        empty: for the unconditional half of guidance.
        retain: prompts to retain, if any.
        size: latents in a batch.
        by: whether the model in training or the untouched one denoises the latents.
        steps, guidance: of the sampler.
        matched: whether a batch stands at the timestep of its latents; False denoises them to the end and draws a
            timestep beside, the defect of a published program (EraseAnything).
    """

    weights: Weights
    concepts: Sequence[Prompts]
    anchors: Sequence[Prompts]
    empty: Prompts
    retain: Prompts | None
    size: int
    by: Literal["student", "teacher"]
    steps: int
    guidance: float
    matched: bool = True

    def batch(self, generator: torch.Generator) -> Batch:
        """Draw a batch."""
        family, n = self.weights.family, self.size
        i = int(torch.randint(len(self.concepts), (1,), generator=generator))
        rows = torch.randint(len(self.concepts[i].frozen), (n,), generator=generator)
        done = int(torch.randint(self.steps, (1,), generator=generator))
        noise = torch.randn(n, *family.latent_shape, generator=generator)
        concept, empty = self.concepts[i][rows], self.empty[torch.zeros(n, dtype=torch.long)]
        retain = None
        if self.retain is not None:
            retain = self.retain[torch.randint(len(self.retain.frozen), (n,), generator=generator)]
        frozen = self.by == "teacher"
        with torch.no_grad(), self.weights.teacher() if frozen else nullcontext():
            c, free = (r.teacher if frozen else r.student for r in (concept, empty))
            x, t = self._denoised(family, c, free, noise, done if self.matched else self.steps)
        if not self.matched:
            t = family.noising.times(n, generator=generator)
        return Batch(self.weights, x, t, concept, self.anchors[i][rows], empty, retain)

    def _denoised(
        self, family: Family, c: Condition, free: Condition, noise: Tensor, done: int
    ) -> tuple[Tensor, Tensor]:
        return partial_denoise(family, c, free, noise, steps=self.steps, done=done, guidance=self.guidance)
