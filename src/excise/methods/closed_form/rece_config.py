"""The settings of RECE; nothing here imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from excise.methods.closed_form.config import BALANCED, MethodConfig, TargetTokens
from excise.support.reading import POSITIVE, read_with

_ROUNDS = read_with(rounds=POSITIVE)

# Bare names as in the program, since their later states hold most of what longer prompts add; but the states of the
# empty prompt stay exactly as they are, and names can be retained (docs/methods/rece.md).
_OURS = {
    "prompts": "name",
    "tokens": "from_last",
    "retain_tokens": "last",
    "retain_scale": 0.3,
    "fixed": "start_and_null",
}
# The program: bare names, all of the empty prompt retained; first tokens from the last subject token on, then all.
_OFFICIAL = {
    "prompts": "name",
    "tokens": "from_last",
    "round_tokens": "all",
    "retain_tokens": "all",
    "retain_empty": True,
    "fixed": "none",
    "hold": 0.0,
}


class RECEConfig(MethodConfig):
    """Settings of RECE; presets have the paper's rounds and regularisation, `official` has those of the program."""

    sweep: ClassVar[tuple[str, tuple[float, ...]]] = ("retain_scale", (0.05, 0.15, 0.5, 1.5, 5.0, 15.0, 50.0))
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        **dict.fromkeys(("object", "instance", "person"), _OURS),
        "style": {**_OURS, "anchor": "art", "regularisation": 1e-3},
        "explicit": {**_OURS, "rounds": 3},
        "canvas": {"balanced": True, "round_retain_scale": 1.0, "ridge": 0.03},
        "official": _OFFICIAL,
        "official-style": {**_OFFICIAL, "anchor": "art", "regularisation": 1e-3},
        "official-explicit": {**_OFFICIAL, "rounds": 3},
    }

    rounds: int = Field(1, ge=0, description="Rounds that find and erase restoring embeddings; 0 is UCE.")
    regularisation: float = Field(
        1e-1, gt=0, description="Pull of those embeddings towards zero (nu).", json_schema_extra=_ROUNDS
    )
    erase_scale: float = Field(1.0, ge=0, description="Weight of the concepts to erase, in the first step.")
    retain_scale: float = Field(1.0, ge=0, description="Weight of retained states, in the first step.")
    balanced: bool = BALANCED
    ridge: float = Field(0.5, gt=0, description="Pull towards the original weights, in the first step.")
    hold: float = Field(
        1.0,
        ge=0,
        description="Weight, in the rounds, of the targets' edited outputs, so that targets stay erased.",
        json_schema_extra=_ROUNDS,
    )
    round_retain_scale: float | None = Field(
        None,
        ge=0,
        description="Weight of retained states, in the rounds; null takes a tenth of retain_scale.",
        json_schema_extra=_ROUNDS,
    )
    round_tokens: TargetTokens | None = Field(
        None, description="Target tokens of the rounds; null takes those of the first step.", json_schema_extra=_ROUNDS
    )
    round_ridge: float = Field(
        0.1, gt=0, description="Pull towards the weights so far, in the rounds.", json_schema_extra=_ROUNDS
    )
    fixed: Literal["none", "start", "start_and_null"] = Field(
        "start", description="States that stay exactly as they are: none, the start token, or it and the empty prompt."
    )

    @property
    def later(self) -> TargetTokens | None:
        return self.round_tokens
