"""Training pictures that the model draws itself: the target and its distractors, slot by slot under the same prompt."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from excise.concept import fill
from excise.errors import ConceptError
from excise.families.base import Condition, Family, Progress, split
from excise.precision import bfloat16
from excise.training.scorers import Scorer

TRIES = 3
FEWEST = 0.25  # share of the slots that a name must fill


class UnseenError(ConceptError):
    """Distractors that the judge hardly sees in their pictures; `names` are they, `seen` says so and no more."""

    def __init__(self, judge: str, names: Sequence[str]) -> None:
        self.names = list(names)
        self.seen = f"{judge} hardly sees the distractors {', '.join(names)} in pictures that the model draws of them"
        super().__init__(f"{self.seen}; name others with --set distractors=a,b,c")


@dataclass(frozen=True)
class Sampling:
    """How training pictures are drawn; `precision` as accelerate calls it."""

    steps: int
    guidance: float
    batch: int = 8
    precision: str = "no"

    def draw(
        self, family: Family, prompts: Sequence[str], seeds: Sequence[int], progress: Progress | None = None
    ) -> list[Image.Image]:
        """One picture a prompt."""
        with self._precision(family):
            return family.sample(
                prompts, seeds, steps=self.steps, guidance=self.guidance, batch=self.batch, progress=progress
            )

    def render(self, family: Family, condition: Condition, seeds: Sequence[int]) -> list[Image.Image]:
        """One picture a row of a condition."""
        none = family.unconditional()
        with self._precision(family):
            return [
                image
                for part in split(range(len(seeds)), self.batch)
                for image in family.render(
                    condition[list(part)],
                    none,
                    [seeds[i] for i in part],
                    steps=self.steps,
                    guidance=self.guidance,
                )
            ]

    def _precision(self, family: Family) -> AbstractContextManager[Any]:
        # Not fp16, in which the autoencoder of SDXL overflows.
        return bfloat16(family.device.type, asked=self.precision == "bf16")


@dataclass(frozen=True)
class Slots:
    """S slots, each a template and a seed, filled by the target and by each of K distractors.

    Attributes:
        prompts: (S) the target's prompts, the captions of all that stands in a slot.
        condition: S rows, the prompts as the denoiser takes them.
        own: by distractor the S conditions of its own prompts.
        target: (S, c, h, w) latents. distractors: (K, S, c, h, w) latents.
        filled: (1 + K, S) which pictures show what they should, the target's row first.
        names: the K distractors.
        seen: by name, how many pictures of it the scorer accepted, of how many drawn.
    """

    prompts: list[str]
    condition: Condition
    own: list[Condition]
    target: Tensor
    distractors: Tensor
    filled: Tensor
    names: list[str]
    seen: dict[str, list[int]]


def draw_slots(
    family: Family,
    words: Sequence[str],
    distractors: Sequence[str],
    templates: Sequence[str],
    count: int,
    sampling: Sampling,
    *,
    scorer: Scorer | None,
    seed: int,
    progress: Progress | None = None,
) -> Slots:
    """Draw S slots for the target and its distractors; what the scorer does not accept is drawn again, a few times.

    Args:
        words: the target's name, and its synonyms, which take turns in the slots.

    Raises:
        ConceptError: the model hardly draws the target, by the scorer's eyes. UnseenError: or some distractors.
    """
    names = [words[0], *distractors]
    chosen = [templates[i % len(templates)] for i in range(count)]
    prompts = {name: [fill([t], name)[0] for t in chosen] for name in distractors}
    prompts[words[0]] = [fill([t], words[i % len(words)])[0] for i, t in enumerate(chosen)]
    wanted = [(k, s) for k in range(len(names)) for s in range(count)]
    kept: dict[tuple[int, int], Image.Image] = {}
    accepted: set[tuple[int, int]] = set()
    drawn = dict.fromkeys(names, 0)
    for attempt in range(TRIES if scorer else 1):
        missing = [slot for slot in wanted if slot not in accepted]
        images = sampling.draw(
            family,
            [prompts[names[k]][s] for k, s in missing],
            [picture_seed(seed, attempt, s) for _, s in missing],
            progress,
        )
        right = scorer.sees(images, [names[k] for k, _ in missing]) if scorer else [True] * len(images)
        for slot, image, good in zip(missing, images, right, strict=True):
            drawn[names[slot[0]]] += 1
            if good or slot not in kept:
                kept[slot] = image
            if good:
                accepted.add(slot)
        if len(accepted) == len(wanted):
            break
    filled = torch.tensor([[(k, s) in accepted for s in range(count)] for k in range(len(names))])
    _check(names, filled, scorer)
    latents = family.latents([kept[slot] for slot in wanted])
    latents = latents.reshape(len(names), count, *latents.shape[1:])
    return Slots(
        prompts=prompts[words[0]],
        condition=family.condition(prompts[words[0]]),
        own=[family.condition(prompts[d]) for d in distractors],
        target=latents[0],
        distractors=latents[1:],
        filled=filled,
        names=list(distractors),
        seen={name: [int(filled[k].sum()), drawn[name]] for k, name in enumerate(names)},
    )


def picture_seed(*parts: object) -> int:
    """The seed of a training picture; no protocol's, whose seeds come from names of protocols."""
    digest = hashlib.sha256("\x00".join(map(str, ("training", *parts))).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def _check(names: Sequence[str], filled: Tensor, scorer: Scorer | None) -> None:
    if scorer is None:
        return
    share = filled.float().mean(dim=1)
    both = (filled[:1] & filled[1:]).any(dim=1)  # a slot must hold the target and the distractor
    if share[0] < FEWEST:
        raise ConceptError(
            f"{scorer.name} sees '{names[0]}' in {int(filled[0].sum())} of {filled.shape[1]} pictures that the "
            f"untouched model draws of it, after {TRIES} tries each; so nothing could be learnt or measured. Check the "
            "name, or give another judge."
        )
    weak = [n for n, s, b in zip(names[1:], share[1:].tolist(), both.tolist(), strict=True) if s < FEWEST or not b]
    if weak:
        raise UnseenError(scorer.name, weak)
