"""The settings of EMCID; nothing here imports torch."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from excise.support.settings import Settings


class EMCIDConfig(Settings):
    """Settings of EMCID."""

    sweep: ClassVar[tuple[str, tuple[float, ...]]] = ("retain_scale", (0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0))
    layers: int = Field(4, ge=1, description="Layers of each text encoder to edit, from the last used one back.")
    retain_scale: float = Field(10.0, ge=0, description="Weight of retained prompts against targets (lambda).")
    ridge: float = Field(
        1e-3, gt=0, description="Pull towards the original weights, in units of the mean eigenvalue of the system."
    )
