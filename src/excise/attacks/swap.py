"""Component swap: the original text encoder, or the original denoiser, put back beside what is left of the edit."""

from __future__ import annotations

from pydantic import Field

from excise.attacks.base import Access, Arena, AttackError, Control, Round, Settings


class SwapConfig(Settings):
    """Settings of the swap."""

    part: str = Field("text_encoder", description="What is put back: text_encoder (all of them), or denoiser.")


class Swap:
    """The attack as the registry knows it."""

    access: Access = "weights"
    control: Control = "seeds"
    Config = SwapConfig

    @staticmethod
    def passes(config: SwapConfig, tests: int) -> int:
        """Denoiser passes beside those of drawing."""
        return 0

    @staticmethod
    def attack(arena: Arena, config: SwapConfig) -> list[Round]:
        """The test prompts, with one part as it was.

        Raises:
            AttackError: that part was not changed, so nothing would be another.
        """
        if config.part not in arena.swaps:
            raise AttackError(f"the {config.part.replace('_', ' ')} of this model is the original one already.")
        with arena.swaps[config.part]():
            return arena.words([[test] * arena.images for test in arena.tests])
