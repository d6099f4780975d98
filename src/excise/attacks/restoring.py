"""Words that bring a target back while it is being trained away: they join its prompts, and training begins anew.

The search is that of UnlearnDiffAtk (arXiv 2310.11868) on the training pictures; no test prompt, seed or judge is met.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import torch

from excise.attacks.base import Arena, Guides
from excise.attacks.tokens import lexicon, put_to, words_first
from excise.attacks.unlearndiffatk import UnlearnDiffAtkConfig, found_words
from excise.concept import Concept
from excise.families.base import Family
from excise.training.pictures import Slots
from excise.training.problem import Say

SEARCHES = 2  # of words, each from another start


def restoring_words(family: Family, concept: Concept, slots: Slots, seed: int, say: Say) -> list[str]:
    """Words which, put to the target's prompts, let the model as it is now expect the target's pictures most.

    Returns:
        Each a few words in one string; the model's own words for the target are not among them.
    """
    empty = torch.zeros(0, *family.latent_shape)
    guides = Guides(list(slots.prompts), slots.target, [], empty)
    arena = Arena(family, lambda: nullcontext(family), concept, slots.prompts[:SEARCHES], guides, seed=seed)
    arena.say = lambda what, done, total: say(f"{what} for {concept.name}", done, total)
    known = lexicon(family, concept.words, slots.prompts)
    found = [found_words(arena, known, UnlearnDiffAtkConfig(), i) for i in range(SEARCHES)]
    return list(dict.fromkeys(" ".join(known.text(words)) for words in found))


def with_words(family: Family, words: str, prompts: Sequence[str]) -> list[str]:
    """Prompts with such words put to them, where the family's tokenizer wants them."""
    front = words_first(family)
    return [put_to(words, p, front) for p in prompts]
