"""Slots: pictures of the target and of its distractors, drawn under the same prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from excise.concepts.concept import fill
from excise.errors import ConceptError
from excise.families.base import Family, Progress
from excise.families.conditions import Condition
from excise.judges.base import OpenJudge
from excise.support.selection import evenly
from excise.training.pictures import Sampling, picture_seed

TRIES = 3

FEWEST = 0.25  # share of the slots that a name must fill


class UnseenError(ConceptError):
    """The judge hardly sees some distractors in their pictures.

    Attributes:
        names: of these distractors.
        seen: the first half of the message, without advice.
    """

    def __init__(self, judge: str, names: Sequence[str]) -> None:
        self.names = list(names)
        self.seen = f"{judge} hardly sees the distractors {', '.join(names)} in pictures that the model draws of them"
        super().__init__(f"{self.seen}; name others with --set distractors=a,b,c")


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
    scorer: OpenJudge | None,
    seed: int,
    progress: Progress | None = None,
) -> Slots:
    """Draw S slots for the target and its distractors; pictures that the scorer does not accept are drawn again.

    Args:
        words: the target's name, and its synonyms, which take turns in the slots.

    Raises:
        ConceptError: the model hardly draws the target, by the scorer's eyes. UnseenError: or some distractors.
    """
    names = [words[0], *distractors]
    spread = evenly(templates, count)  # of all that a target stands in, where there are more of them than slots
    chosen = [spread[i % len(spread)] for i in range(count)]
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


def _check(names: Sequence[str], filled: Tensor, scorer: OpenJudge | None) -> None:
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
