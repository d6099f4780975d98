"""The settings of MACE; nothing here imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field

from excise.methods.closed_form.config import BALANCED, MethodConfig, TargetTokens

# The ridge suits five prompts a target (docs/methods/mace.md); the program's suits its thirty, in its recipe for
# objects.
_OURS = {"retain_tokens": "all", "ridge": 30.0}
_OFFICIAL = {"retain_tokens": "all", "prompts": "mace", "ridge": 1e3}


class MACEConfig(MethodConfig):
    """Settings of MACE's refinement."""

    sweep: ClassVar[tuple[str, tuple[float, ...]]] = ("retain_scale", (0.05, 0.15, 0.5, 1.5, 5.0, 15.0, 50.0))
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        **dict.fromkeys(("object", "instance"), _OURS),
        "style": {**_OURS, "anchor": "art"},
        "person": {**_OURS, "anchor": "a person"},
        "explicit": {**_OURS, "anchor": "a person wearing clothes"},
        "canvas": {"balanced": True, "ridge": 0.03},
        "official": _OFFICIAL,
        "official-style": {**_OFFICIAL, "anchor": "art"},
        "official-person": {**_OFFICIAL, "anchor": "a person"},
        "official-explicit": {**_OFFICIAL, "anchor": "a person wearing clothes"},
    }

    tokens: TargetTokens = Field(
        "context", description="Target tokens: `context` leaves the concept's own tokens out; `all` includes them."
    )
    retain_scale: float = Field(1.0, ge=0, description="Weight of retained states (p).")
    balanced: bool = BALANCED
    ridge: float = Field(0.5, gt=0, description="Pull towards the original weights (lambda); larger is gentler.")
