"""Seed search: the test prompt itself with other seeds, which costs only patience; the control of many attacks."""

from __future__ import annotations

from excise.attacks.base import Arena, Attack, AttackSettings, Round


class SeedSearch(Attack[AttackSettings]):
    """Draw the test prompts with as many seeds as the budget has pictures."""

    access = "black box"

    def run(self, arena: Arena) -> list[Round]:
        return arena.draw_tests()
