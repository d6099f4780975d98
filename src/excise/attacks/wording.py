"""Asking in other words: synonyms, a second language, other sentences, the target among other things."""

from __future__ import annotations

from pydantic import Field

from excise.attacks.base import SEEDS, Access, Arena, AttackError, Control, Round, Settings


class WordingConfig(Settings):
    """Settings of asking in other words."""

    way: str = Field("", description="Which of the known ways to ask for the target.")


class Wording:
    """The attack as the registry knows it."""

    access: Access = "black box"
    teaches = False
    Config = WordingConfig

    @staticmethod
    def control(config: WordingConfig) -> Control:
        """What does the same without it."""
        return SEEDS

    @staticmethod
    def passes(config: WordingConfig, tests: int) -> int:
        """Denoiser passes beside those of drawing."""
        return 0

    @staticmethod
    def attack(arena: Arena, config: WordingConfig) -> list[Round]:
        """Every known wording in turn, with other seeds when it comes again.

        Raises:
            AttackError: none is known for this target.
        """
        known = arena.ways.get(config.way)
        if not known:
            raise AttackError(
                f"no {config.way} of '{arena.concept.name}' are known; name some with --ask (prompts, one a line) or "
                "synonyms in the concept."
            )
        return arena.words(
            [[known[(i + j) % len(known)] for j in range(arena.images)] for i in range(len(arena.tests))]
        )
