"""Random words before the test prompt: the control of every search over words (Zhang et al., arXiv 2310.11868)."""

from __future__ import annotations

import torch
from pydantic import Field

from excise.attacks.base import Access, Arena, Control, Round, Settings
from excise.attacks.tokens import FIRST, lexicon


class RandomConfig(Settings):
    """Settings of random words."""

    words: int = Field(3, ge=1, description="Words put to a prompt.")
    alone: bool = Field(False, description="The words alone, without the test prompt.")


class RandomWords:
    """The attack as the registry knows it."""

    access: Access = "black box"
    teaches = False
    Config = RandomConfig

    @staticmethod
    def control(config: RandomConfig) -> Control:
        """What does the same without it."""
        return "random", config.model_dump()

    @staticmethod
    def passes(config: RandomConfig, tests: int) -> int:
        """Denoiser passes beside those of drawing."""
        return 0

    @staticmethod
    def attack(arena: Arena, config: RandomConfig) -> list[Round]:
        """Other words for every picture; not the target's own."""
        known = lexicon(arena.family, arena.concept.words)
        generator = arena.generator("random words")
        shape = (len(arena.tests), arena.images, config.words)
        chosen = torch.randint(len(known.words), shape, generator=generator).tolist()
        return arena.words(
            [
                [known.prompt(known.text(c), FIRST if config.alone else test) for c in row]
                for test, row in zip(arena.tests, chosen, strict=True)
            ]
        )
