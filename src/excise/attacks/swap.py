"""Component swap: put the original text encoder or denoiser back, and keep what the edit changed in the other part."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from excise.attacks.base import Arena, Attack, AttackError, AttackSettings, Round


class SwapConfig(AttackSettings):
    """Settings of the swap."""

    part: Literal["text_encoder", "denoiser"] = Field(
        "text_encoder", description="Part that is put back: text_encoder (all of them) or denoiser."
    )


class Swap(Attack[SwapConfig]):
    """Draw the test prompts with one part of the untouched model."""

    access = "weights"
    Config = SwapConfig

    def run(self, arena: Arena) -> list[Round]:
        part = self.config.part.replace("_", " ")
        if self.config.part not in arena.swaps:
            raise AttackError(
                f"the {part} is the original one already, as far as edits and the untouched model (--base) tell."
            )
        if len(arena.swaps) == 1:
            raise AttackError(
                f"only the {part} was changed: with the original one put back, the model is the untouched one."
            )
        with arena.swaps[self.config.part]():
            return arena.draw_tests()
