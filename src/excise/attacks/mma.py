"""MMA: words, the target's own banned, whose text state points where the target's prompt points; greedy coordinates.

Paper:      Yang et al., "MMA-Diffusion: MultiModal Attack on Diffusion Models", CVPR 2024, arXiv 2311.17516, its text
            part; the search is GCG, Zou et al., arXiv 2307.15043
Provenance: written from the papers; official code not used
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from excise.attacks.base import Arena, Attack, AttackSettings, Control, Round
from excise.attacks.tokens import (
    NEUTRAL_WORD,
    Lexicon,
    condition_on,
    lexicon,
    mixed_embeddings,
    one_hot,
    put_to,
    words_first,
)
from excise.families.base import Family


class MMAConfig(AttackSettings):
    """Settings of MMA."""

    words: int = Field(8, ge=1, description="Number of words of the prompt.")
    iterations: int = Field(20, ge=1, description="Rounds of the search, for each test prompt.")
    candidates: int = Field(64, ge=1, description="Prompts tried in a round, in one batch.")
    top: int = Field(64, ge=1, description="Words with the largest gradient, among which a word is replaced.")


class MMA(Attack[MMAConfig]):
    """max over words  cos(E(words), E(prompt)) at the last state that is read, on the untouched model."""

    access = "text encoder"
    Config = MMAConfig

    def control(self) -> Control:
        return Control("random", {"words": self.config.words, "alone": True})

    def run(self, arena: Arena) -> list[Round]:
        texts = arena.search_once(f"mma {self.config!r}", lambda: _search_all(arena, self.config))
        front = words_first(arena.family)
        return arena.draw_prompts([[put_to(text, NEUTRAL_WORD, front)] * arena.images for text in texts])


def _search_all(arena: Arena, config: MMAConfig) -> list[str]:
    """Search words for each test prompt on the untouched model."""
    with arena.original() as untouched:
        words = lexicon(untouched, [*arena.concept.words, *arena.banned])
        guides = [arena.guides.prompts[i % len(arena.guides.prompts)] for i in range(len(arena.tests))]
        rows = [_search(arena, untouched, words, guide, config, i).tolist() for i, guide in enumerate(guides)]
    return [" ".join(words.text(row)) for row in rows]


def _search(arena: Arena, family: Family, words: Lexicon, guide: str, config: MMAConfig, number: int) -> Tensor:
    """Return the numbers (k,) of the words found for one guide."""
    generator = arena.generator("mma", number)
    goal = _last_states(family, [guide])[0]
    template = words.with_placeholders(config.words, NEUTRAL_WORD)
    end = int(family.encode([template], until=["last"]).end[0])
    chosen = torch.randint(len(words.words), (config.words,), generator=generator)
    best = -1.0
    for step in range(config.iterations):
        hot = one_hot(words, chosen).requires_grad_()
        condition = condition_on(family, words, [template], mixed_embeddings(words, hot))
        state = condition.states[0, end]
        similarity = torch.cosine_similarity(state.float(), goal, dim=0)
        (gradient,) = torch.autograd.grad(similarity, hot)
        top = gradient.topk(min(config.top, len(words.words)), dim=-1).indices
        candidates = chosen.repeat(config.candidates, 1)
        slot = torch.randint(config.words, (config.candidates, 1), generator=generator)
        pick = torch.randint(top.shape[1], (config.candidates, 1), generator=generator)
        candidates.scatter_(1, slot, top[slot[:, 0]].gather(1, pick))
        ends = _last_states(family, [words.prompt(words.text(row), NEUTRAL_WORD) for row in candidates.tolist()])
        scores = torch.cosine_similarity(ends, goal[None], dim=1)
        if float(scores.max()) > best:
            best, chosen = float(scores.max()), candidates[int(scores.argmax())]
        arena.say("searching words", step + 1, config.iterations)
    return chosen


def _last_states(family: Family, prompts: list[str]) -> Tensor:
    """Return (B, d) the text encoder's state at the last token of each prompt that is read."""
    states = family.condition(prompts).states.float()
    at = family.encode(prompts, until=["last"] * len(prompts)).end.to(states.device)
    return states[torch.arange(len(prompts), device=states.device), at]
