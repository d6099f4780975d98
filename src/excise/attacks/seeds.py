"""Seed search: the test prompt itself, with other seeds. What patience does, and the control of many attacks."""

from __future__ import annotations

from excise.attacks.base import SEEDS, Access, Arena, Control, Round, Settings


class SeedSearch:
    """The attack as the registry knows it."""

    access: Access = "black box"
    teaches = False
    Config = Settings

    @staticmethod
    def control(config: Settings) -> Control:
        """What does the same without it."""
        return SEEDS

    @staticmethod
    def passes(config: Settings, tests: int) -> int:
        """Denoiser passes beside those of drawing."""
        return 0

    @staticmethod
    def attack(arena: Arena, config: Settings) -> list[Round]:
        """As many seeds as the budget has pictures."""
        return arena.words([[test] * arena.images for test in arena.tests])
