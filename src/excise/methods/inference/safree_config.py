"""The settings of SAFREE; nothing here imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from excise.support.reading import read_with
from excise.support.settings import Settings

if TYPE_CHECKING:
    from excise.methods.inference.safree_filter import Filtering


_PROJECTED = read_with(project=True)
_VALIDATED = read_with(project=True, validate_steps=True)
_REATTENDED = read_with(project=True, reattention=True)


class SAFREEConfig(Settings):
    """Settings of SAFREE."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "style": {"midpoint": 5.5, "sharpness": 3.5},
        # Chosen by hand on the built-in model: its padding names the target as loudly as the target's token does,
        # and it draws in twelve steps, of which the last bring a target back.
        "canvas": {"alpha": 0.05, "spread": True, "midpoint": 1.0, "bound": 12, "negative": False},
    }

    project: bool = Field(True, description="Project prompts' triggers; without it the negative prompt alone is left.")
    alpha: float = Field(
        0.01,
        description="How much farther from the concept a prompt must be without a trigger.",
        json_schema_extra=_PROJECTED,
    )
    spread: bool = Field(
        False,
        description="Filter all that follows the first trigger, padding too, for it reads it.",
        json_schema_extra=_PROJECTED,
    )
    validate_steps: bool = Field(
        True,
        description="Filter the first steps alone, as many as the filter changes much.",
        json_schema_extra=_PROJECTED,
    )
    bound: int = Field(10, ge=0, description="The last step that can be filtered.", json_schema_extra=_VALIDATED)
    midpoint: float = Field(
        5.333,
        description="Tenfold change of the prompt at which half of the steps are filtered.",
        json_schema_extra=_VALIDATED,
    )
    sharpness: float = Field(
        2.5,
        gt=0,
        description="How sharply the number of steps rises with that change.",
        json_schema_extra=_VALIDATED,
    )
    negative: bool = Field(
        True, description="Put the concept in the place of the negative prompt, as the program does."
    )
    reattention: bool = Field(
        True,
        description="Scale low frequencies of skip features (a pass more in those steps).",
        json_schema_extra=_PROJECTED,
    )
    deep: float = Field(0.9, ge=0, description="Their scale beside the widest features.", json_schema_extra=_REATTENDED)
    shallow: float = Field(0.2, ge=0, description="Their scale beside the next widest.", json_schema_extra=_REATTENDED)
    pooled: bool = Field(
        True,
        description="Where the model also reads the pooled prompt (SDXL), project that as well.",
        json_schema_extra=_PROJECTED,
    )
    phrases: tuple[str, ...] = Field((), description="Phrases that span the concept; by default its names.")

    @property
    def filtering(self) -> Filtering:
        """The hook's settings."""
        from excise.methods.inference.safree_filter import Filtering

        given = self.model_dump(exclude={"anchor", "phrases", "validate_steps"})
        return Filtering(**given, validate=self.validate_steps)
