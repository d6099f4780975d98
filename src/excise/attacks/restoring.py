"""What brings a target back while it is being trained away; it joins its prompts, and training begins anew.

Words are searched as by UnlearnDiffAtk (arXiv 2310.11868), and new words are learnt as by concept inversion (arXiv
2308.01508), both on the training pictures; no test prompt, seed or judge is met.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from excise.attacks.base import Arena, Guides
from excise.attacks.inversion import InversionConfig, learnt, marked
from excise.attacks.tokens import led, lexicon, put_to, soft, words_first
from excise.attacks.unlearndiffatk import UnlearnDiffAtkConfig, found_words
from excise.concept import Concept
from excise.families.base import Condition, Family
from excise.training.pictures import Slots
from excise.training.problem import Say

SEARCHES = 2  # of words, and of learnt words, each from another start
LEARNING = InversionConfig(iterations=100)


@dataclass(frozen=True)
class Restoring:
    """One thing that brings a target back.

    Attributes:
        words: put to the prompts; "" where a learnt word stands instead of the target's name.
        condition: what is read of the prompts of all slots with it.
        states: (n, d) of a learnt word, from its last token to the end of every prompt; none of words.
    """

    words: str
    condition: Condition
    states: Tensor


def restoring(family: Family, concept: Concept, slots: Slots, seed: int, number: int, say: Say) -> list[Restoring]:
    """What lets the model as it is now expect the target's pictures most, the model's own words for it left out.

    Args:
        number: of the round, which starts its searches elsewhere.
    """
    empty = torch.zeros(0, *family.latent_shape)
    guides = Guides(list(slots.prompts), slots.target, [], empty)
    arena = Arena(family, lambda: nullcontext(family), concept, slots.prompts[:SEARCHES], guides, seed=seed)
    arena.say = lambda what, done, total: say(f"{what} for {concept.name}", done, total)
    known = lexicon(family, concept.words, slots.prompts)
    found = [found_words(arena, known, UnlearnDiffAtkConfig(), i) for i in range(SEARCHES)]
    words = dict.fromkeys(" ".join(known.text(chosen)) for chosen in found)
    at = (torch.device("cpu"), torch.float32)
    rows = []
    for w in words:
        condition = family.condition(with_words(family, w, slots.prompts))
        rows.append(Restoring(w, condition.to(*at), torch.zeros(0, family.text_width)))
    for i in range(SEARCHES):
        vectors = learnt(arena, known, LEARNING, "restoring", number, i)
        texts, word = marked(arena, known, vectors, slots.prompts)
        with torch.no_grad():
            condition = soft(family, known, texts, vectors).to(*at)
        there = family.encode(led(known, texts), [word] * len(texts))
        states = replace(there, states=condition.inputs["encoder_hidden_states"])
        rows.append(Restoring("", condition, torch.cat([states.span(k, "from_last") for k in range(len(texts))])))
    return rows


def with_words(family: Family, words: str, prompts: Sequence[str]) -> list[str]:
    """Prompts with words put to them, where the family's tokenizer wants them."""
    front = words_first(family)
    return [put_to(words, p, front) for p in prompts]
