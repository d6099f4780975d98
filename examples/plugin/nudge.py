"""A method of one's own: one class, one entry point (pyproject.toml), and every command knows it."""

import torch
from pydantic import Field

from excise.edits.deltas import TextMap
from excise.methods.closed_form.base import ClosedForm
from excise.methods.closed_form.config import MethodConfig
from excise.methods.solution import Solution


class NudgeConfig(MethodConfig):
    """Settings of Nudge."""

    ridge: float = Field(0.1, gt=0, description="Pull towards the original weights; larger is gentler.")


class Nudge(ClosedForm[NudgeConfig]):
    """Targets read as their anchors by the smallest change.

    W' = W + W (N - O)^T (O O^T + ridge I)^-1 O, with targets O and anchors N as rows.
    """

    Config = NudgeConfig

    def solve(self, problem, weights, config, generator):
        """Solve for one text map for all projections."""
        O, N = problem.targets, problem.anchors  # noqa: E741 - the names in the formula
        A = O @ O.mT + config.ridge * torch.eye(len(O)).to(O)
        return Solution((TextMap((N - O).mT, torch.linalg.solve(A, O), tuple(weights)),))
