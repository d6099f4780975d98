"""CURE: project the targets' spectral directions out, except those of retained prompts.

Paper:      "CURE: Concept Unlearning via Orthogonal Representation Editing", NeurIPS 2025, arXiv 2505.12677
Provenance: written from the paper; no official code is known. `combine` other than joint is ours.

    X = U diag(sigma) V^T of the states (rows),  r_i = sigma_i^2 / sum sigma^2,  f(r) = a r / ((a - 1) r + 1)
    P = V diag(f) V^T,   W' = W (I - P_f + P_f P_r)      P_f of the targets, P_r of retained states
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from excise.edits.deltas import TextMap
from excise.linalg.low_rank import compress
from excise.methods.closed_form.base import ClosedForm
from excise.methods.closed_form.cure_config import CUREConfig
from excise.methods.closed_form.text_problem import TextProblem
from excise.methods.solution import Solution

ERASED = 0.1  # directions with a smaller f are not removed from later concepts


def expanded(rows: Tensor, a: float) -> tuple[Tensor, Tensor]:
    """Spectral expansion of states (..., n, d): directions V (..., r, d) and their weights f (..., r)."""
    S, V = _spectrum(rows)
    energy = S.square()
    r = energy / energy.sum(dim=-1, keepdim=True).clamp(min=1e-300)
    return V, a * r / ((a - 1) * r + 1)


def _spectrum(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Singular values and right singular vectors, from the Gram matrix where there are more rows than columns."""
    if rows.shape[-2] > rows.shape[-1]:
        values, vectors = torch.linalg.eigh(rows.mT @ rows)
        return values.clamp(min=0).sqrt().flip(-1), vectors.mT.flip(-2)
    _, S, V = torch.linalg.svd(rows, full_matrices=False)
    return S, V


class CURE(ClosedForm[CUREConfig]):
    """CURE: one map of text states that projects the targets' directions out."""

    target_becomes = "nothing"
    Config = CUREConfig

    def solve(
        self, problem: TextProblem, weights: Mapping[str, Tensor], config: CUREConfig, generator: torch.Generator
    ) -> Solution:
        """Solve for one text map for all of `weights`; nothing is random."""
        U, V = solve_map(problem, config)
        return Solution(text_maps=(TextMap(*compress(U, V), tuple(weights)),))


def solve_map(problem: TextProblem, config: CUREConfig) -> tuple[Tensor, Tensor]:
    """Factors U (d, r) and V (r, d) of the change of text: W' = W + (W U) V."""
    V_r, f_r = expanded(problem.retain, config.expansion)

    def spared(V: Tensor) -> Tensor:
        """V (I - P_r)."""
        return V - ((V @ V_r.mT) * f_r) @ V_r

    if config.combine == "joint":
        V_f, f = expanded(problem.targets, config.expansion)
        return -V_f.mT * f, spared(V_f)
    d = problem.targets.shape[1]
    change = problem.targets.new_zeros(d, d)
    earlier = problem.targets[:0]  # orthonormal directions of the earlier concepts
    V_each, f_each = expanded(_by_owner(problem), config.expansion)
    for V_f, f in zip(V_each, f_each, strict=True):
        V_f, f = V_f[f > 0], f[f > 0]
        if config.combine == "orthogonal":
            V_f = V_f - (V_f @ earlier.mT) @ earlier
            earlier = torch.cat([earlier, _directions(V_f[f > ERASED])])
        left, right = -V_f.mT * f, spared(V_f)
        change = change + (left + change @ left) @ right  # (I + change)(I + left right) - I
    return change, torch.eye(d, dtype=change.dtype, device=change.device)


def _by_owner(problem: TextProblem) -> Tensor:
    """(m, r, d) the target states of each concept, padded with zeros, which do not change the spectrum."""
    counts = torch.bincount(problem.owner)
    order = problem.owner.argsort(stable=True)
    place = torch.cat([torch.arange(int(c), device=counts.device) for c in counts])
    stacked = problem.targets.new_zeros(len(counts), int(counts.max()), problem.targets.shape[1])
    stacked[problem.owner[order], place] = problem.targets[order]
    return stacked


def _directions(rows: Tensor) -> Tensor:
    """Orthonormal rows that span `rows`."""
    _, S, V = torch.linalg.svd(rows, full_matrices=False)
    return V[S > 1e-6]
