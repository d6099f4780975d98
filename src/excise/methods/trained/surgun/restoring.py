"""Prompts that regain a target from an edited model; a hardening trains them away too.

Words are searched as by UnlearnDiffAtk (arXiv 2310.11868), and new words are learnt as by concept inversion (arXiv
2308.01508), both on the training pictures; no test prompt, seed or judge is met.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch

from excise.attacks.base import Arena, Guides
from excise.attacks.inversion import InversionConfig, learnt, read_as
from excise.attacks.tokens import Lexicon, lexicon, put_to, words_first
from excise.attacks.unlearndiffatk import UnlearnDiffAtkConfig, found_words
from excise.concepts.concept import Concept
from excise.families.base import Family
from excise.families.conditions import Condition
from excise.methods.trained.surgun.adversary import Adversary
from excise.methods.trained.surgun.slots import Slots
from excise.support.progress import Report
from excise.training.pictures import picture_seed

SEARCHES, LEARNT = 2, 4  # of words, and of learnt words, each from another start
SEARCHING, LEARNING = UnlearnDiffAtkConfig(), InversionConfig()


@dataclass(frozen=True)
class Restoring:
    """A prompt or a learnt word that regains a target.

    Attributes:
        words: put to the slots' prompts; "" where a learnt word stands in place of the target's name.
        condition: of the prompts of all slots with it.
    """

    words: str
    condition: Condition


def restoring(family: Family, concept: Concept, slots: Slots, seed: int, number: int, say: Report) -> list[Restoring]:
    """Search and learn the words under which the model as it is now expects the target's pictures most.

    The target's own words are excluded.

    Args:
        number: of the round, which starts its searches elsewhere.
    """
    arena, words = _arena(family, concept, slots, picture_seed("restoring", seed, number))
    arena.say = lambda what, done, total: say(f"{what} for {concept.name}", done, total)
    prompts = [" ".join(words.text(found_words(arena, words, SEARCHING, i))) for i in range(SEARCHES)]
    rows = {w: family.condition(with_words(family, w, slots.prompts)) for w in dict.fromkeys(prompts)}
    vectors = [learnt(arena, words, LEARNING, "restoring", i) for i in range(LEARNT)]
    with torch.no_grad():
        new = [read_as(arena, words, v, slots.prompts) for v in vectors]
    return [Restoring(w, c.to(torch.device("cpu"), torch.float32)) for w, c in [*rows.items(), *(("", c) for c in new)]]


def adversary(family: Family, concept: Concept, slots: Slots, seed: int, number: int) -> Adversary:
    """Words that are learnt on during the training of a round."""
    arena, words = _arena(family, concept, slots, picture_seed("adversary", seed, number))
    return Adversary(arena, words, LEARNING, arena.generator("adversary"))


def bystanders(family: Family, concept: Concept, slots: Slots, seed: int, count: int) -> Condition:
    """Prompts of the target with a word that nobody taught in its name's place, each a mixture of two drawn at random.

    What a model makes of them is to stay: an edit against learnt words reaches beyond the target wherever no prompt to
    keep stands for a name, and names that are kept are only those that someone thought of.

    Args:
        count: how many, each of a slot's prompt and of two words drawn at random.
    """
    arena, words = _arena(family, concept, slots, picture_seed("bystanders", seed))
    generator = arena.generator("bystanders")
    at = torch.randint(len(slots.prompts), (count,), generator=generator)
    first, second = torch.randint(len(words.words), (2, count), generator=generator)
    share = torch.rand(count, 1, generator=generator)
    mixed = {}
    for name, rows in words.rows.items():
        part = share.to(rows)
        mixed[name] = (part * rows[first] + (1 - part) * rows[second])[:, None]
    with torch.no_grad():
        condition = read_as(arena, words, mixed, [slots.prompts[i] for i in at.tolist()])
    return condition.to(torch.device("cpu"), torch.float32)


def _arena(family: Family, concept: Concept, slots: Slots, seed: int) -> tuple[Arena, Lexicon]:
    """An attack arena with the training pictures as guides and a seed that no later attack has; and the lexicon."""
    empty = torch.zeros(0, *family.latent_shape)
    guides = Guides(list(slots.prompts), slots.target, [], empty)
    arena = Arena(family, lambda: nullcontext(family), concept, slots.prompts[:SEARCHES], guides, seed=seed)
    return arena, lexicon(family, concept.words, slots.prompts)


def with_words(family: Family, words: str, prompts: Sequence[str]) -> list[str]:
    """Prompts with words added in front or behind, as the family's tokenizer needs it."""
    front = words_first(family)
    return [put_to(words, p, front) for p in prompts]
