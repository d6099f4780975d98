"""What the loss of a distilled method is computed on: latents, prompts, the student and its teacher."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from excise.errors import SettingError
from excise.families.conditions import Condition, join
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
        texts: the prompts themselves; none of the empty one.
    """

    frozen: Condition
    encode: Callable[[Sequence[int]], Condition] | None = None
    words: Tensor | None = None
    texts: Sequence[str] = ()

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
    def texts(self) -> list[str]:
        """The B prompts themselves."""
        return [self.prompts.texts[i] for i in self.rows.tolist()]

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
            length = max(t.shape[1] for t in frozen.inputs.values() if t.dim() > 2)
            words = pad(words, (0, max(0, length - words.shape[1])))  # of padding that is not told (SANA)
    if not weights.text_encoders:
        return Prompts(frozen, words=words, texts=texts)
    return Prompts(frozen, lambda rows: family.live_condition([texts[i] for i in rows]), words, texts)


def empty_prompt(weights: Weights) -> Prompts:
    """The unconditional half of guidance as the one row of its part; no gradients flow through it."""
    family = weights.family
    with weights.teacher():
        frozen = family.unconditional()
    if not weights.text_encoders:
        return Prompts(frozen)
    return Prompts(frozen, lambda rows: family.unconditional()[list(rows)])


@dataclass(frozen=True)
class Noised:
    """Noised latents of pictures, under their prompts.

    Attributes:
        x_t: (B, c, h, w). t: (B,) the timestep at which they stand.
        prompts: of the B pictures.
        true: (B, c, h, w) what a denoiser that knew the pictures would predict, in the model's own parameterisation.
    """

    x_t: Tensor
    t: Tensor
    prompts: Rows
    true: Tensor


@dataclass(frozen=True)
class Batch:
    """Latents that the model is in the middle of denoising, and prompts for them.

    Attributes:
        x_t: (B, c, h, w). t: (B,) the timestep at which they stand.
        concept, anchor, empty: B prompts each.
        retain: B prompts to retain; None where the training has none.
        true: (B, c, h, w) what a denoiser that knew the pictures would predict, where the latents are noised pictures.
        kept: noised pictures of what is to be retained; None where the training has none.
        progress: share of the sampler's steps that are done, where the latents are being denoised.
        number: which of the targets it is about.
        untouched: a block in which the model is without the closed form that training starts from, if there is one.
    """

    weights: Weights
    x_t: Tensor
    t: Tensor
    concept: Rows
    anchor: Rows
    empty: Rows
    retain: Rows | None = None
    true: Tensor | None = None
    kept: Noised | None = None
    progress: float | None = None
    untouched: Callable[[], AbstractContextManager[None]] = nullcontext
    number: int = 0

    def student(self, prompts: Rows) -> Tensor:
        """(B, c, h, w) predictions of the model in training."""
        return self.weights.family.predict(self.x_t, self.t, prompts.student)

    def teacher(self, prompts: Rows) -> Tensor:
        """(B, c, h, w) predictions of the untouched model, without gradients."""
        with self.weights.teacher(), torch.no_grad():
            return self.weights.family.predict(self.x_t, self.t, prompts.teacher)

    def teachers(self, *prompts: Rows) -> list[Tensor]:
        """`teacher` of several parts of the batch, in one pass over all of them."""
        with self.weights.teacher():
            return self._together(prompts)

    def originals(self, *prompts: Rows) -> list[Tensor]:
        """`teachers`, by the model as it was before the closed form that training starts from, if there is one."""
        with self.weights.teacher(), self.untouched():
            return self._together(prompts)

    @torch.no_grad()
    def _together(self, prompts: Sequence[Rows]) -> list[Tensor]:
        """Predictions by the model as it is, in one pass, without gradients."""
        count = len(prompts)
        x, t = self.x_t.repeat(count, 1, 1, 1), self.t.repeat(count)
        return list(self.weights.family.predict(x, t, join([p.teacher for p in prompts])).chunk(count))

    def truth(self) -> Tensor:
        """(B, c, h, w) what a denoiser that knew the pictures would predict.

        Raises:
            SettingError: the latents are no noised pictures.
        """
        if self.true is None:
            raise SettingError("this loss asks for pictures, whose noise is known; use --set by=images.")
        return self.true

    def retain_loss(self) -> Tensor:
        """Mean squared difference of student and teacher under the prompts to retain.

        On noised pictures of what is to be retained, where there are any, that of the student and the truth.

        Raises:
            ValueError: the batch has nothing to retain.
        """
        if self.kept is not None:
            guess = self.weights.family.predict(self.kept.x_t, self.kept.t, self.kept.prompts.student)
            return mse(guess, self.kept.true.to(guess))
        if self.retain is None:
            raise ValueError("this batch has no prompts to retain")
        return mse(self.student(self.retain), self.teacher(self.retain))
