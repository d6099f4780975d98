"""Settings that every closed-form method has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from excise.support.reading import read_with
from excise.support.settings import OMIT_DEFAULT, Settings

Tokens = Literal["last", "subject", "from_last", "all_but_start", "all"]
TargetTokens = Tokens | Literal["context"]
BALANCED = Field(
    False,
    description="Weigh all retained states together against all targets, so that one weight serves one name and a "
    "hundred; otherwise state by state, as the programs do.",
)


class MethodConfig(Settings):
    """Settings that every closed-form method has."""

    params: Literal["v", "k", "kv"] = Field("kv", description="Which projections to edit: values, keys or both.")
    tokens: TargetTokens = Field(
        "from_last",
        description="Target tokens: last subject token, subject, from the last subject token to the end, "
        "all but the start token, all, or its context (all but the subject).",
    )
    retain_tokens: Tokens = Field("all_but_start", description="Tokens of retained prompts; see `tokens`.")
    pads: Literal["few", "all"] = Field(
        "all",
        description="Padding among those tokens, where the model reads it: all, or a few tokens evenly spaced in it "
        "that stand for all.",
        json_schema_extra=OMIT_DEFAULT,
    )
    robust: int = Field(
        0, ge=0, description="Rounds, at most, that find the states which would restore a target, and erase them too."
    )
    pooled: bool = Field(True, description="Edit the map of the pooled prompt as well, in models that have one (SDXL).")
    pooled_weight: float = Field(
        1.0,
        gt=0,
        description="Weight of the pooled prompt's targets against what is retained and the size of the change; lower "
        "is gentler.",
        json_schema_extra=OMIT_DEFAULT | read_with(pooled=True),
    )
    prompts: Literal["templates", "name", "mace"] = Field(
        "templates",
        description="Prompts that show a target: templates (the vocabulary's, or those of the kind), the name alone, "
        "or the thirty of MACE's program. Preserved names stand in the templates as well, otherwise alone.",
    )
    retain_empty: bool = Field(False, description="Retain the empty prompt as well.")
    maps: Literal["static", "refined", "joint", "shared"] = Field(
        "static",
        description="The maps to edit, by what they read: the prompt alone (exact), the prompt mixed with itself, with "
        "the picture, or the picture too. All but the first are fitted to states of a few moments of drawing, in the "
        "transformers that have them.",
        json_schema_extra=OMIT_DEFAULT,
    )

    @classmethod
    def behind(cls, preset: Mapping[str, Any]) -> dict[str, Any]:
        wider = {"tokens": "from_last", "retain_tokens": "all_but_start"}
        return {"pads": "few", **{name: rows for name, rows in wider.items() if preset.get(name) == "last"}}

    @property
    def later(self) -> TargetTokens | None:
        """Target tokens of the method's later steps, if they differ from `tokens`."""
        return None
