"""Random words before the test prompt: the control of every search over words (Zhang et al., arXiv 2310.11868)."""

from __future__ import annotations

import torch
from pydantic import Field

from excise.attacks.base import Arena, Attack, AttackSettings, Control, Round
from excise.attacks.tokens import NEUTRAL_WORD, lexicon


class RandomConfig(AttackSettings):
    """Settings of random words."""

    words: int = Field(3, ge=1, description="Number of words added to a prompt.")
    alone: bool = Field(False, description="Draw the words alone, without the test prompt.")


class RandomWords(Attack[RandomConfig]):
    """Add other random words for every picture; the target's own names are never among them."""

    access = "black box"
    Config = RandomConfig

    def control(self) -> Control:
        return Control("random", self.config.model_dump())

    def run(self, arena: Arena) -> list[Round]:
        words = lexicon(arena.family, arena.concept.words)
        shape = (len(arena.tests), arena.images, self.config.words)
        chosen = torch.randint(len(words.words), shape, generator=arena.generator("random words")).tolist()
        return arena.draw_prompts(
            [
                [words.prompt(words.text(row), NEUTRAL_WORD if self.config.alone else test) for row in rows]
                for test, rows in zip(arena.tests, chosen, strict=True)
            ]
        )
