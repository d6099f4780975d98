"""UCE: least-squares remapping of the projections that read text.

Paper:      Gandikota et al., "Unified Concept Editing in Diffusion Models", WACV 2024, arXiv 2308.14761, eq. 7
Provenance: written from the paper; official code (MIT) not used
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from excise.edits.deltas import TextMap
from excise.linalg.low_rank import compress
from excise.linalg.moments import cross, gram
from excise.linalg.row_space import Ridge, few
from excise.linalg.solves import solve_spd
from excise.methods.closed_form.base import ClosedForm
from excise.methods.closed_form.text_problem import TextProblem
from excise.methods.closed_form.uce_config import UCEConfig
from excise.methods.solution import Solution


@dataclass(frozen=True)
class Moments:
    """The moments that the objective depends on: O^T O, N^T O and R^T R, each (d, d)."""

    targets: Tensor
    anchors: Tensor
    retain: Tensor


def moments(problem: TextProblem) -> Moments:
    """Moments of targets O, anchors N and retained states R."""
    return Moments(gram(problem.targets), cross(problem.anchors, problem.targets), gram(problem.retain))


def solve_change(m: Moments, K: Tensor, config: UCEConfig) -> Tensor:
    """D (d, d) such that W + W D is the edited weight of every projection W.

        W' = argmin  s |W' O^T - W N^T|^2 + p |(W' - W) R^T|^2 + lambda |W' - W|^2
        W' - W = W s (N - O)^T O H,   H = (lambda I + s O^T O + p R^T R)^-1

    With fixed states K (d, q), where (W' - W) K = 0 must hold, H becomes H - H K (K^T H K)^-1 K^T H, the solution of
    the same problem under that constraint.
    """
    return _through(config.erase_scale * (m.anchors - m.targets), m, K, config)


def solve_map(problem: TextProblem, config: UCEConfig) -> tuple[Tensor, Tensor]:
    """Factors U (d, r) and V (r, d), r = min(T, d), of the D = U V of `solve_change`."""
    O, N = problem.targets, problem.anchors  # noqa: E741 - the paper's letters
    K = fixed_states(problem, config.fixed)
    if few(len(O) + len(problem.retain), O.shape[1]):
        return _among_rows(problem, K, config)
    if len(O) > O.shape[1]:  # more tokens than directions: their product is smaller than either
        return solve_change(moments(problem), K, config), torch.eye(O.shape[1], dtype=O.dtype, device=O.device)
    m = Moments(gram(O), O.new_zeros(0), gram(problem.retain))
    return config.erase_scale * (N - O).mT, _through(O, m, K, config)


def _through(rows: Tensor, m: Moments, K: Tensor, config: UCEConfig) -> Tensor:
    """`rows` (n, d) times H under its constraint."""
    A = config.erase_scale * m.targets + config.retain_scale * m.retain
    A.diagonal().add_(config.ridge)
    V = solve_spd(A, rows.mT).mT  # A is symmetric, so O A^-1 = (A^-1 O^T)^T
    return _holding(V, K, solve_spd(A, K)) if K.shape[1] else V


def _among_rows(problem: TextProblem, K: Tensor, config: UCEConfig) -> tuple[Tensor, Tensor]:
    """`solve_map` where text has more dimensions than the request has states: no system is larger than those."""
    O, erase = problem.targets, config.erase_scale**0.5  # noqa: E741 - the paper's letter
    system = Ridge(torch.cat([erase * O, config.retain_scale**0.5 * problem.retain]), config.ridge)
    V = system.own(len(O))
    return erase * (problem.anchors - O).mT, _holding(V, K, system.through(K.mT).mT) if K.shape[1] else V


def _holding(V: Tensor, K: Tensor, HK: Tensor) -> Tensor:
    """Rows V = O H (n, d) with what they do to fixed states K (d, q) taken out."""
    return V - (V @ K) @ torch.linalg.pinv(K.mT @ HK, hermitian=True) @ HK.mT


def fixed_states(problem: TextProblem, which: str) -> Tensor:
    """(d, q) states to hold fixed, as columns; near-copies among those of the empty prompt are merged."""
    rows = {
        "none": problem.start[None][:0],
        "start": problem.start[None],
        "start_and_null": torch.cat([problem.start[None], problem.null]),
    }[which]
    if len(rows) < 2:
        return rows.mT
    U, S, _ = torch.linalg.svd(rows.mT, full_matrices=False)
    return U[:, 1e-6 * S[0] < S]


class UCE(ClosedForm[UCEConfig]):
    """UCE: one map of text states for all projections."""

    Config = UCEConfig

    def solve(
        self, problem: TextProblem, weights: Mapping[str, Tensor], config: UCEConfig, generator: torch.Generator
    ) -> Solution:
        """Solve for one text map for all of `weights`; nothing is random."""
        U, V = compress(*solve_map(problem, config))
        return Solution(text_maps=(TextMap(U, V, tuple(weights)),))
