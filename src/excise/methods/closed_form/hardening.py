"""Closed forms against their own undoing: the states that would bring a target back are found, and erased as well.

After RECE (Gong et al., ECCV 2024, arXiv 2407.12383, eq. 5), here for any closed form and to a fixed point. With W the
projections, W' the edited ones and c a target's state,

    c' = argmin_c'  sum |W' c' - W c|^2 + nu |c'|^2 = (nu I + sum W'^T W')^-1 sum W'^T W c

and the whole problem is solved again with every c' found so far among its targets, until none brings back more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from excise.linalg.solves import solve_spd
from excise.methods.closed_form.text_problem import TextProblem
from excise.methods.solution import Solution

PULL = 0.1  # nu, as in RECE's program
SETTLED = 0.01  # less of the targets' reading than this between two rounds is a fixed point
Solve = Callable[[TextProblem], Solution]


def hardened(
    solve: Solve, problem: TextProblem, weights: Mapping[str, Tensor], rounds: int
) -> tuple[Solution, list[float]]:
    """Solve, and again with what would restore the targets, at most `rounds` times.

    Args:
        solve: the closed form. weights: by module path the projections as they are, (out, d).

    Returns:
        The last solution; after each solve the share of the targets' reading that some state still brings back.
    """
    solution, asked, shares = solve(problem), problem, list[float]()
    for _ in range(rounds):
        restoring, share = _restoring(problem, weights, solution)
        shares.append(share)
        if len(shares) > 1 and shares[-2] - share < SETTLED:
            break
        asked = replace(
            asked,
            targets=torch.cat([asked.targets, restoring]),
            anchors=torch.cat([asked.anchors, problem.anchors]),
            owner=torch.cat([asked.owner, problem.owner]),
            prompts=None if asked.prompts is None else asked.prompts + (problem.prompts or 0),
        )
        solution = solve(asked)
    else:
        if rounds:
            shares.append(_restoring(problem, weights, solution)[1])
    return solution, shares


def _restoring(problem: TextProblem, weights: Mapping[str, Tensor], solution: Solution) -> tuple[Tensor, float]:
    """(T, d) the states that restore each target best, and the share of what was read of it that they bring back."""
    d = problem.targets.shape[1]
    edited_gram, cross, gram = (problem.targets.new_zeros(d, d) for _ in range(3))
    for path, weight in weights.items():
        W = weight.double()
        edited = W + _change(solution, path, W)
        edited_gram += edited.mT @ edited
        cross += edited.mT @ W
        gram += W.mT @ W
    A = edited_gram.clone()
    A.diagonal().add_(PULL)
    found = solve_spd(A, cross @ problem.targets.mT).mT
    read = ((problem.targets @ gram) * problem.targets).sum()
    back = ((found @ cross) * problem.targets).sum()
    missed = read - 2 * back + ((found @ edited_gram) * found).sum()
    return found, float(1 - missed / read)


def _change(solution: Solution, path: str, W: Tensor) -> Tensor:
    parts = [m.delta(W) for m in solution.text_maps if path in m.modules]
    if solution.modules and path in solution.modules:
        parts.append(solution.modules[path].delta(W))
    return torch.stack(parts).sum(dim=0) if parts else torch.zeros_like(W)
