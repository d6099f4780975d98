"""Hardening of closed forms: find the states that would restore a target after an edit, and erase them as well.

After RECE (Gong et al., ECCV 2024, arXiv 2407.12383, eq. 5), here for any closed form and until a fixed point. With W
the projections, W' the edited ones and c the state of a target,

    c' = argmin_c'  sum |W' c' - W c|^2 + nu |c'|^2 = (nu I + sum W'^T W')^-1 sum W'^T W c

and the whole problem is solved again with all c' of earlier rounds among its targets, until they restore no more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from excise.linalg.solves import solve_spd
from excise.methods.closed_form.text_problem import TextProblem
from excise.methods.solution import Solution
from excise.support.progress import Report, silent

PULL = 0.1  # nu, as in RECE's program
SETTLED = 0.01  # a restored share that falls by less than this between two rounds is a fixed point
Solve = Callable[[TextProblem], Solution]


def hardened(
    solve: Solve, problem: TextProblem, weights: Mapping[str, Tensor], rounds: int, say: Report = silent
) -> tuple[Solution, list[float]]:
    """Solve, then solve again with the restoring states as further targets, at most `rounds` times.

    Args:
        solve: the closed form.
        problem: its input.
        weights: the unedited projections (out, d) by module path.
        rounds: the largest number of further solves.
        say: receives progress.

    Returns:
        The last solution, and after each solve the share of the targets' outputs that some state still restores.
    """
    say("solving", 0, rounds + 1)
    solution, extended, shares = solve(problem), problem, list[float]()
    for done in range(1, rounds + 1):
        say("solving", done, rounds + 1)
        restoring, share = _restoring(problem, weights, solution)
        shares.append(share)
        if len(shares) > 1 and shares[-2] - share < SETTLED:
            break
        extended = replace(
            extended,
            targets=torch.cat([extended.targets, restoring]),
            anchors=torch.cat([extended.anchors, problem.anchors]),
            owner=torch.cat([extended.owner, problem.owner]),
            prompts=None if extended.prompts is None else extended.prompts + (problem.prompts or 0),
        )
        solution = solve(extended)
    else:
        if rounds:
            shares.append(_restoring(problem, weights, solution)[1])
    say("solving", rounds + 1, rounds + 1)
    return solution, shares


def _restoring(problem: TextProblem, weights: Mapping[str, Tensor], solution: Solution) -> tuple[Tensor, float]:
    """(T, d) the state that restores each target best, and the share of the targets' outputs that they restore."""
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
    restoring = solve_spd(A, cross @ problem.targets.mT).mT
    original = ((problem.targets @ gram) * problem.targets).sum()
    overlap = ((restoring @ cross) * problem.targets).sum()
    residual = original - 2 * overlap + ((restoring @ edited_gram) * restoring).sum()
    return restoring, float(1 - residual / original)


def _change(solution: Solution, path: str, W: Tensor) -> Tensor:
    """The change of one projection under a solution; zeros where it has none."""
    parts = [m.delta(W) for m in solution.text_maps if path in m.modules]
    if solution.modules and path in solution.modules:
        parts.append(solution.modules[path].delta(W))
    return torch.stack(parts).sum(dim=0) if parts else torch.zeros_like(W)
