"""The settings of SPEED; nothing here imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from excise.methods.closed_form.config import MethodConfig
from excise.support.reading import POSITIVE, read_with

_AUGMENTED = read_with(augment=("random", "directed"))

# Values only, last subject token: what the paper's experiments edit.
_PAPER = {"params": "v", "tokens": "last", "retain_tokens": "last"}
_PERSON = {**_PAPER, "anchor": "person", "threshold": 1e-4, "ridge": 0.05, "filter": False}
# Every state of a target weighs as much as a whole prompt of other presets, and the empty prompt is retained.
_EXPLICIT = {
    "params": "v",
    "tokens": "all_but_start",
    "retain_tokens": "all_but_start",
    "retain_empty": True,
    "mean": "prompts",
    "ridge": 0.7,
    "invariant_slack": 0.5,
}
_OFFICIAL = {"prompts": "name"}


class SPEEDConfig(MethodConfig):
    """Settings of SPEED; the presets are those of its paper where it has them."""

    sweep: ClassVar[tuple[str, tuple[float, ...]]] = ("ridge", (1e-4, 1e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0))
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "object": _PAPER,
        "instance": _PAPER,
        "style": {**_PAPER, "anchor": "art"},
        "person": _PERSON,
        "explicit": _EXPLICIT,
        # The small text encoder spreads a concept over all later tokens, so targets are many rows, and their mean
        # moment is small against the paper's ridge. Chosen by benchmarks/canvas_presets.py (docs/methods/speed.md).
        "canvas": {"ridge": 0.01, "filter": False},
        # A text encoder that reads in both directions: what is kept has weight in nearly every direction of a target.
        "canvas-flux": {"threshold": 0.2, "ridge": 0.5, "filter": False},
        "official": {**_PAPER, **_OFFICIAL},
        "official-style": {**_PAPER, **_OFFICIAL, "anchor": "art"},
        "official-person": {**_PERSON, **_OFFICIAL},
        "official-explicit": {**_EXPLICIT, **_OFFICIAL},
    }

    threshold: float = Field(
        1e-1, gt=0, description="Eigenvalues of the mean retain moment below this count as null space."
    )
    ridge: float = Field(1.0, gt=0, description="Weight of the size of the change (r); larger is gentler.")
    mean: Literal["states", "prompts"] = Field(
        "states", description="Divisor of the targets' moments: number of states, or of prompts."
    )
    invariant_slack: float = Field(
        0.0,
        ge=0,
        description="Softness of the invariant equality constraints (lambda); 0 makes them exact.",
        json_schema_extra=read_with(invariants=POSITIVE),
    )
    filter: bool = Field(True, description="Influence-based prior filtering (IPF).")
    augment: Literal["none", "random", "directed"] = Field(
        "directed", description="Prior augmentation: none, isotropic noise, or directed (DPA)."
    )
    draws: int = Field(10, ge=1, description="Augmented copies of each retained state.", json_schema_extra=_AUGMENTED)
    invariants: int = Field(
        4,
        ge=0,
        description="States held fixed: the start token and k-means centroids of the empty prompt; 0 for none.",
    )
    chunk: int = Field(
        128,
        ge=1,
        description="Rows over which the mean influence of augmented states is taken.",
        json_schema_extra=_AUGMENTED,
    )
