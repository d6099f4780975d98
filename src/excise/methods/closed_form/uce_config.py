"""The settings of UCE; nothing here imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from excise.methods.closed_form.config import MethodConfig

# Keys and values, last subject token, as in the official program of 2025.
_PAPER = {"tokens": "last", "retain_tokens": "last"}
# The program uses bare names and holds no state fixed.
_OFFICIAL = {**_PAPER, "prompts": "name", "fixed": "none"}

_CANVAS = {"retain_scale": 0.15, "ridge": 0.03}  # chosen by benchmarks/canvas_presets.py


class UCEConfig(MethodConfig):
    """Settings of UCE; the paper uses the same for every kind, with keys, values and the last token."""

    sweep: ClassVar[tuple[str, tuple[float, ...]]] = ("retain_scale", (0.05, 0.15, 0.5, 1.5, 5.0, 15.0, 50.0))
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        **dict.fromkeys(("object", "instance", "person", "explicit"), _PAPER),
        "style": {**_PAPER, "anchor": "art"},
        "official": _OFFICIAL,
        "official-style": {**_OFFICIAL, "anchor": "art"},
        "canvas": _CANVAS,
        # The pooled prompt has fewer dimensions than the model has names.
        "canvas-flux": {**_CANVAS, "pooled_weight": 0.03},
    }

    erase_scale: float = Field(1.0, ge=0, description="Weight of the concepts to erase (s); 0 changes nothing.")
    retain_scale: float = Field(1.0, ge=0, description="Weight of retained states (p).")
    ridge: float = Field(0.5, gt=0, description="Pull towards the original weights (lambda); larger is gentler.")
    fixed: Literal["none", "start", "start_and_null"] = Field(
        "start", description="States that stay exactly as they are: none, the start token, or it and the empty prompt."
    )
