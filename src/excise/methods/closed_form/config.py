"""Settings that every closed-form method has."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from excise.support.settings import Settings

Tokens = Literal["last", "subject", "from_last", "all_but_start", "all"]
TargetTokens = Tokens | Literal["context"]
BALANCED = Field(
    False,
    description="Weigh all that is kept beside all targets, so that one weight serves one name and a hundred; else "
    "state by state, as the programs do.",
)


class MethodConfig(Settings):
    """Settings that every closed-form method has."""

    params: Literal["v", "k", "kv"] = Field("kv", description="Which projections to edit: values, keys or both.")
    tokens: TargetTokens = Field(
        "from_last",
        description="Target tokens: last subject token, subject, from the last subject token to the end, "
        "all but the start token, all, or its context (all but the subject).",
    )
    retain_tokens: Tokens = Field("all_but_start", description="Which tokens of what is kept.")
    robust: int = Field(
        0, ge=0, description="Times, at most, that the states which would bring a target back are sought and erased."
    )
    pooled: bool = Field(
        True, description="Where the model also reads the pooled prompt (SDXL), edit that map as well."
    )
    prompts: Literal["templates", "name", "mace"] = Field(
        "templates",
        description="Prompts in which targets are looked at: templates (the vocabulary's, or those of the kind), the "
        "bare name, or the thirty of MACE's program. Names to keep go into the templates as well, else they stand "
        "bare.",
    )
    retain_empty: bool = Field(False, description="Keep the empty prompt as well.")

    @property
    def later(self) -> TargetTokens | None:
        """Which tokens of targets a later step of the method takes, where that is another choice."""
        return None
