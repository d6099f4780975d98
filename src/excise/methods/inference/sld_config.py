"""The settings of SLD; nothing here imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, Literal

from pydantic import Field

from excise.support.reading import POSITIVE, read_with
from excise.support.settings import Settings


@dataclass(frozen=True)
class SafetyTerm:
    """The numbers of the safety term.

    Attributes:
        scale: s_S, multiplies the distance between the prompt's and the concept's prediction before the clamp.
        warmup: steps at the beginning that are guided as without it; its momentum grows all the same.
        threshold: lambda; elements with p - s at or above it are left alone.
        momentum_scale: s_m, how much of the momentum enters the term.
        momentum_decay: beta_m, how much of the old momentum stays.
    """

    scale: float
    warmup: int
    threshold: float
    momentum_scale: float
    momentum_decay: float


# The published table; diffusers' own SafetyConfig.WEAK has the scale 20 in the place of 200.
LEVELS = {
    "weak": SafetyTerm(200.0, 15, 0.0, 0.0, 0.0),
    "medium": SafetyTerm(1000.0, 10, 0.01, 0.3, 0.4),
    "strong": SafetyTerm(2000.0, 7, 0.025, 0.5, 0.7),
    "max": SafetyTerm(5000.0, 0, 1.0, 0.5, 0.7),
}


class SLDConfig(Settings):
    """Settings of SLD; a number that is not given is that of the level."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        # The published warm-ups are for fifty steps; its protocols draw in twelve, whose first decide a style.
        "canvas": {"level": "max", "warmup": 0},
    }

    level: Literal["weak", "medium", "strong", "max"] = Field(
        "medium",
        description="Published set of numbers.",
        json_schema_extra=read_with(*({number: None} for number in asdict(LEVELS["weak"]))),
    )
    scale: float | None = Field(None, ge=0, description="Weight of the difference of prompt and concept (s_S).")
    warmup: int | None = Field(None, ge=0, description="Steps at the beginning that are guided as usual.")
    threshold: float | None = Field(None, description="Elements that differ by as much are left alone (lambda).")
    momentum_scale: float | None = Field(None, ge=0, lt=1, description="Weight of the momentum in the term (s_m).")
    momentum_decay: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="Share of the old momentum (beta_m).",
        json_schema_extra=read_with(
            {"momentum_scale": POSITIVE}, {"momentum_scale": None, "level": ("medium", "strong", "max")}
        ),
    )
    prompt: str = Field("", description="The prompt to guide away from; by default the names, joined by commas.")

    @property
    def term(self) -> SafetyTerm:
        """The level's numbers with those that were given in their place."""
        own = {name: getattr(self, name) for name in asdict(LEVELS[self.level])}
        return replace(LEVELS[self.level], **{name: value for name, value in own.items() if value is not None})
