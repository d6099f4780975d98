"""How far a solution moves what the model reads of the targets; a request that leaves no room is not passed over."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from excise.edits.deltas import LowRank, TextMap
from excise.errors import ExciseWarning
from excise.methods.closed_form.text_problem import TextProblem
from excise.methods.solution import Solution
from excise.support.counts import counted
from excise.support.selection import evenly

HARDLY = 0.01  # of the way from what a target reads as to what it is to read as
ROWS = 32  # target rows that are measured, evenly spread
MAPS = 8  # maps of one problem that are measured, evenly spread; each is read from its file for it


@dataclass
class Effect:
    """What a solution does to the targets, summed over maps.

    Attributes:
        nothing: whether targets read as nothing afterwards, not as their anchors.
        moved: sum of squares of the change of what maps give for targets.
        way: the same of the change that would make them read as they should.
        retained: number of retained states, and with the empty prompt's those that may be held fixed.
        width: of the text space.
    """

    nothing: bool
    moved: float = 0.0
    way: float = 0.0
    retained: tuple[int, int] = (0, 0)
    width: int = 0

    def add(self, problem: TextProblem, weights: Mapping[str, Tensor], solution: Solution) -> None:
        """Measure the solution for the maps of one problem.

        Args:
            problem: what they read.
            weights: (out, d) the unedited maps by module path.
            solution: for them.
        """
        some = _spread(problem)
        targets, anchors = (rows[some].float() for rows in (problem.targets, problem.anchors))
        goal = -targets if self.nothing else anchors - targets
        shared = {path: text_map for text_map in solution.text_maps for path in text_map.modules}
        for path in evenly(list(weights), MAPS):
            W = weights[path].float()
            self.way += float((goal @ W.mT).square().sum())
            if path in shared:
                self.moved += float((_mapped(targets, shared[path]) @ W.mT).square().sum())
            elif solution.modules and path in solution.modules:
                delta = solution.modules[path]
                if isinstance(delta, LowRank):
                    changed = targets @ delta.a.to(W).mT @ delta.b.to(W).mT
                else:
                    changed = targets @ delta.delta(W).float().mT
                self.moved += float(changed.square().sum())
        self.retained = (len(problem.retain), len(problem.null) + 1)
        self.width = problem.retain.shape[1]

    @property
    def share(self) -> float:
        """The share of the way that the solution moves the targets."""
        return float((self.moved / self.way) ** 0.5) if self.way > 0 else 0.0

    def warn(self, method: str, advice: Callable[[], str]) -> None:
        """Warn if the solution hardly moves the targets.

        Args:
            advice: gives what to do, where that is said.
        """
        if self.share >= HARDLY:
            return
        retained, empty = self.retained
        seen = (
            "the targets read as their anchors do already"
            if self.way == 0
            else f"{counted(retained, 'retained state')} and {counted(empty, 'state')} of the empty prompt leave "
            f"hardly any of the {counted(self.width, 'direction')} of text space to erase in"
        )
        todo = "name another --anchor" if self.way == 0 else advice()
        warnings.warn(
            f"{method} moves what the model reads of the targets by {self.share:.1%} of the way alone, so that they "
            f"are hardly erased: {seen}; {todo}.",
            ExciseWarning,
            stacklevel=4,
        )


def _spread(problem: TextProblem) -> Tensor:
    """Indices of some target rows that are to change, evenly spread."""
    differ = (problem.anchors - problem.targets).abs().amax(dim=1) > 1e-6 * problem.targets.abs().amax(dim=1)
    rows = differ.nonzero(as_tuple=True)[0]
    return rows[torch.linspace(0, max(0, len(rows) - 1), min(ROWS, len(rows))).round().long().to(rows.device)]


def _mapped(rows: Tensor, text_map: TextMap) -> Tensor:
    """(n, d): the change of text states (n, d) under a map of the text."""
    return rows @ text_map.v.to(rows).mT @ text_map.u.to(rows).mT
