"""MMA: words, the target's own banned, whose text state points where the target's prompt points; greedy coordinates.

Paper:      Yang et al., "MMA-Diffusion: MultiModal Attack on Diffusion Models", CVPR 2024, arXiv 2311.17516, its text
            part; the search is GCG, Zou et al., arXiv 2307.15043
Provenance: written from the papers; official code not used
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from excise.attacks.base import Access, Arena, Control, Round, Settings
from excise.attacks.tokens import FIRST, Lexicon, lexicon, mixed, one_hot, put_to, soft, words_first
from excise.families.base import Family


class MMAConfig(Settings):
    """Settings of MMA."""

    words: int = Field(8, ge=1, description="Words of the prompt.")
    iterations: int = Field(20, ge=1, description="Rounds of the search, for each test prompt.")
    candidates: int = Field(64, ge=1, description="Prompts tried in a round, in one batch.")
    top: int = Field(64, ge=1, description="Words by gradient, among which a slot is filled anew.")


class MMA:
    """The attack as the registry knows it."""

    access: Access = "text encoder"
    teaches = False
    Config = MMAConfig

    @staticmethod
    def control(config: MMAConfig) -> Control:
        """What does the same without it."""
        return "random", {"words": config.words, "alone": True}

    @staticmethod
    def passes(config: MMAConfig, tests: int) -> int:
        """Denoiser passes beside those of drawing."""
        return 0

    @staticmethod
    def attack(arena: Arena, config: MMAConfig) -> list[Round]:
        """max over words  cos(E(words), E(prompt)) at the last state that is read."""
        found = arena.recall(f"mma {config!r}", lambda: _searches(arena, config))
        front = words_first(arena.family)
        return arena.words([[put_to(w, FIRST, front)] * arena.images for w in found])


def _searches(arena: Arena, config: MMAConfig) -> list[str]:
    """Words for each test prompt, found on the untouched model."""
    with arena.original() as untouched:
        known = lexicon(untouched, [*arena.concept.words, *arena.banned])
        guides = [arena.guides.prompts[i % len(arena.guides.prompts)] for i in range(len(arena.tests))]
        rows = [_searched(arena, untouched, known, guide, config, i).tolist() for i, guide in enumerate(guides)]
    return [" ".join(known.text(row)) for row in rows]


def _searched(arena: Arena, family: Family, known: Lexicon, guide: str, config: MMAConfig, which: int) -> Tensor:
    """(k,) numbers of the words."""
    generator = arena.generator("mma", which)
    goal = _ends(family, [guide])[0]
    place = known.prompt([known.place] * config.words, FIRST)
    end = int(family.encode([place]).end[0])
    chosen = torch.randint(len(known.words), (config.words,), generator=generator)
    best = -1.0
    for step in range(config.iterations):
        hot = one_hot(known, chosen).requires_grad_()
        read = soft(family, known, [place], mixed(known, hot)).inputs["encoder_hidden_states"][0, end]
        likeness = torch.cosine_similarity(read.float(), goal, dim=0)
        (gradient,) = torch.autograd.grad(likeness, hot)
        top = gradient.topk(min(config.top, len(known.words)), dim=-1).indices
        tried = chosen.repeat(config.candidates, 1)
        slot = torch.randint(config.words, (config.candidates, 1), generator=generator)
        pick = torch.randint(top.shape[1], (config.candidates, 1), generator=generator)
        tried.scatter_(1, slot, top[slot[:, 0]].gather(1, pick))
        ends = _ends(family, [known.prompt(known.text(row), FIRST) for row in tried.tolist()])
        scores = torch.cosine_similarity(ends, goal[None], dim=1)
        if float(scores.max()) > best:
            best, chosen = float(scores.max()), tried[int(scores.argmax())]
        arena.say("searching words", step + 1, config.iterations)
    return chosen


def _ends(family: Family, prompts: list[str]) -> Tensor:
    """(B, d) the last state of each prompt that is read, as the text encoder has it."""
    states = family.condition(prompts).inputs["encoder_hidden_states"].float()
    at = family.encode(prompts).end.to(states.device)
    return states[torch.arange(len(prompts), device=states.device), at]
