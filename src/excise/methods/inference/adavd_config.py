"""The settings of AdaVD; nothing here imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field

from excise.support.settings import Settings


class AdaVDConfig(Settings):
    """Settings of AdaVD."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "canvas": {"centre": 0.5},  # its text encoder keeps unrelated words below 0.4
    }

    slope: float = Field(100.0, gt=0, description="How sharply the weight rises with the cosine.")
    centre: float = Field(
        0.93, ge=-1, le=1, description="Cosine of half the height; there the target is projected out."
    )
    height: float = Field(2.0, ge=0, description="Largest weight; 2 turns the target's part around.")
