"""RECE: UCE, then rounds that find the embeddings which would restore the targets, and erase them as well.

Paper:      Gong et al., "Reliable and Efficient Concept Erasure of Text-to-Image Diffusion Models", ECCV 2024,
            arXiv 2407.12383, eq. 5 to 7
Provenance: written from the paper and from the published behaviour of the official program (Apache-2.0)

With W_l the projections, X the map of text so far (W_l X are the edited weights) and G = sum_l W_l^T W_l:

    c' = argmin_c' sum_l |W_l X c' - W_l c|^2 + nu |c'|^2 = (nu I + X^T G X)^-1 X^T G c
    X <- X X',  X' the map of UCE from c' to the anchors of c

X' is fitted at c', which may be far from c, so its effect on c is not controlled, and a round can restore what earlier
steps erased. `hold`, which is ours, adds X' c = c to the retained states; the program has no such term.

Every step works on d x d matrices, whatever the number and size of the projections.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from excise.edits.deltas import TextMap
from excise.linalg.low_rank import compress
from excise.linalg.solves import solve_spd
from excise.methods.closed_form.base import ClosedForm
from excise.methods.closed_form.rece_config import RECEConfig
from excise.methods.closed_form.text_problem import TextProblem, retain_weight
from excise.methods.closed_form.uce import Moments, fixed_states, moments
from excise.methods.closed_form.uce import solve_change as solve_uce
from excise.methods.closed_form.uce_config import UCEConfig
from excise.methods.solution import Solution


def solve_change(problem: TextProblem, G: Tensor, config: RECEConfig) -> Tensor:
    """X - I (d, d), for the summed Gram matrix G (d, d) of the projections."""
    eye = torch.eye(len(G), dtype=G.dtype, device=G.device)
    scale = retain_weight(problem, config.retain_scale, config.balanced)
    first = UCEConfig(erase_scale=config.erase_scale, retain_scale=scale, ridge=config.ridge, fixed=config.fixed)
    if config.round_retain_scale is None:
        later = scale / 10
    else:
        later = retain_weight(problem, config.round_retain_scale, config.balanced)
    again = UCEConfig(ridge=config.round_ridge, fixed=config.fixed)
    K = fixed_states(problem, config.fixed)
    change = solve_uce(moments(problem), K, first)
    m = moments(problem.later or problem)
    retain = later * m.retain + config.hold * m.targets
    for _ in range(config.rounds):
        X = eye + change
        # The states that restore the targets O are O M^T; only their moments are needed.
        M = solve_spd(config.regularisation * eye + X.mT @ G @ X, X.mT @ G)
        step = solve_uce(Moments(M @ m.targets @ M.mT, m.anchors @ M.mT, retain), K, again)
        change = change + X @ step
    return change


class RECE(ClosedForm[RECEConfig]):
    """RECE: one map of text states, from UCE and further rounds of it."""

    Config = RECEConfig

    def solve(
        self, problem: TextProblem, weights: Mapping[str, Tensor], config: RECEConfig, generator: torch.Generator
    ) -> Solution:
        """Solve for one text map for all of `weights`; nothing is random."""
        d = problem.targets.shape[1]
        G = problem.targets.new_zeros(d, d)
        for weight in weights.values():
            W = weight.double()
            G += W.mT @ W
        change = solve_change(problem, G, config)
        U, V = compress(change, torch.eye(d, dtype=G.dtype, device=G.device))
        return Solution(text_maps=(TextMap(U, V, tuple(weights)),))
