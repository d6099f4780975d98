"""The settings of CURE; nothing here imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from excise.methods.closed_form.config import MethodConfig

# The target's own tokens. From its last word to the end (the default of closed forms) most states are padding, so the
# strong directions of the spectrum would be those that all prompts share, and the target's own would remain.
_PAPER = {"tokens": "subject", "retain_tokens": "last"}


class CUREConfig(MethodConfig):
    """Settings of CURE. The target is projected out and not replaced, so `anchor` has no effect."""

    sweep: ClassVar[tuple[str, tuple[float, ...]]] = ("expansion", (1000.0, 300.0, 100.0, 30.0, 10.0, 5.0, 2.0))
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        **dict.fromkeys(("object", "instance", "style", "person"), _PAPER),
        "explicit": {**_PAPER, "expansion": 5.0},
        "canvas": _PAPER,
    }

    expansion: float = Field(2.0, ge=1, description="How much weak spectral directions count (a).")
    combine: Literal["joint", "sequence", "orthogonal"] = Field(
        "joint",
        description="Several concepts: one spectrum for all, one edit after the other, or that with each concept's "
        "directions cleared of the earlier ones'.",
    )
