"""Nudge: the smallest change of the projections that makes targets read as their anchors."""

import torch
from pydantic import Field

from excise.edits.deltas import TextMap
from excise.methods.closed_form.base import ClosedForm
from excise.methods.closed_form.config import MethodConfig
from excise.methods.solution import Solution
from excise.registry import Record

RECORD = Record(
    "nudge:Nudge",
    "targets read as their anchors by the smallest change",
    shape="closed-form",
    needs=frozenset({"text_kv"}),
    cost="one solve as large as the number of target tokens; under a second on a CPU",
    licence="written for a test",
)


class NudgeConfig(MethodConfig):
    """Settings of Nudge."""

    ridge: float = Field(0.1, gt=0, description="Pull towards the original weights; larger is gentler.")


class Nudge(ClosedForm[NudgeConfig]):
    """W' = W + W (N - O)^T (O O^T + ridge I)^-1 O, with targets O and anchors N as rows."""

    Config = NudgeConfig

    def solve(self, problem, weights, config, generator):
        """Solve for one text map for all projections."""
        O, N = problem.targets, problem.anchors  # noqa: E741 - the names in the formula
        A = O @ O.mT + config.ridge * torch.eye(len(O)).to(O)
        return Solution((TextMap((N - O).mT, torch.linalg.solve(A, O), tuple(weights)),))
