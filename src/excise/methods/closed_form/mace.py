"""MACE's closed-form refinement: the words around a target read as if the target were its anchor.

Paper:      Lu et al., "MACE: Mass Concept Erasure in Diffusion Models", CVPR 2024, arXiv 2403.06135, eq. 2 and 3
Provenance: written from the paper and from the published behaviour of the official program; its licence is
            non-commercial, no code of it was used

    min_W'  sum |W' k_f - W k_g|^2 + p |(W' - W) R^T|^2 + lambda |W' - W|^2

k_f are the states of a prompt with the target, without the target's own tokens; k_g those of the same prompt with the
anchor. It is UCE's system with other tokens. MACE's fusion of one LoRA for each concept is in edits/fuse.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from excise.methods.closed_form.base import ClosedForm
from excise.methods.closed_form.config import BALANCED, MethodConfig, TargetTokens
from excise.methods.closed_form.text_problem import TextProblem, retain_weight
from excise.methods.closed_form.uce import UCE, UCEConfig
from excise.methods.solution import Solution

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


class MACE(ClosedForm[MACEConfig]):
    """MACE's refinement: UCE's system over the tokens around a target."""

    Config = MACEConfig

    def solve(
        self, problem: TextProblem, weights: Mapping[str, Tensor], config: MACEConfig, generator: torch.Generator
    ) -> Solution:
        """Solve for one text map for all of `weights`; nothing is random."""
        scale = retain_weight(problem, config.retain_scale, config.balanced)
        equal = UCEConfig(retain_scale=scale, ridge=config.ridge, fixed="none")
        return UCE().solve(problem, weights, equal, generator)
