"""Component swap: the original text encoder, or the original denoiser, put back beside what is left of the edit."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from excise.attacks.base import SEEDS, Access, Arena, AttackError, Control, Round, Settings


class SwapConfig(Settings):
    """Settings of the swap."""

    part: Literal["text_encoder", "denoiser"] = Field(
        "text_encoder", description="What is put back: text_encoder (all of them), or denoiser."
    )


class Swap:
    """The attack as the registry knows it."""

    access: Access = "weights"
    teaches = False
    Config = SwapConfig

    @staticmethod
    def control(config: SwapConfig) -> Control:
        """What does the same without it."""
        return SEEDS

    @staticmethod
    def passes(config: SwapConfig, tests: int) -> int:
        """Denoiser passes beside those of drawing."""
        return 0

    @staticmethod
    def attack(arena: Arena, config: SwapConfig) -> list[Round]:
        """The test prompts, with one part as it was.

        Raises:
            AttackError: that part was not changed, or nothing else was.
        """
        part = config.part.replace("_", " ")
        if config.part not in arena.swaps:
            raise AttackError(
                f"the {part} is the original one already, as far as edits and the untouched model (--base) tell."
            )
        if len(arena.swaps) == 1:
            raise AttackError(f"all that was changed is in the {part}: put back, the model is the untouched one.")
        with arena.swaps[config.part]():
            return arena.words([[test] * arena.images for test in arena.tests])
