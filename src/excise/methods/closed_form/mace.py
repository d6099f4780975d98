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

import torch
from torch import Tensor

from excise.methods.closed_form.base import ClosedForm
from excise.methods.closed_form.mace_config import MACEConfig
from excise.methods.closed_form.text_problem import TextProblem, retain_weight
from excise.methods.closed_form.uce import UCE
from excise.methods.closed_form.uce_config import UCEConfig
from excise.methods.solution import Solution


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
