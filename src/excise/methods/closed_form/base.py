"""Settings of methods, and the shape of closed-form ones: statistics of text in, deltas out; no model, no device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from excise.edits.deltas import Delta, Dense, LowRank, TextMap
from excise.support.settings import Settings

Tokens = Literal["last", "subject", "from_last", "all_but_start", "all"]
TargetTokens = Tokens | Literal["context"]
BALANCED = Field(
    False,
    description="Weigh all that is kept beside all targets, so that one weight serves one name and a hundred; else "
    "state by state, as the programs do.",
)


class MethodConfig(Settings):
    """Settings that every closed-form method has."""

    sweep: ClassVar[tuple[str, tuple[float, ...]]]
    """The setting that trades what is erased against what is kept, and values of it, the harshest first."""

    params: Literal["v", "k", "kv"] = Field("kv", description="Which projections to edit: values, keys or both.")
    tokens: TargetTokens = Field(
        "from_last",
        description="Target tokens: last subject token, subject, from the last subject token to the end, "
        "all but the start token, all, or its context (all but the subject).",
    )
    retain_tokens: Tokens = Field("all_but_start", description="Which tokens of what is kept.")
    robust: int = Field(
        0, ge=0, description="Times, at most, that the states which would bring a target back are sought and erased."
    )
    pooled: bool = Field(
        True, description="Where the model also reads the pooled prompt (SDXL), edit that map as well."
    )
    prompts: Literal["templates", "name", "mace"] = Field(
        "templates",
        description="Prompts in which targets are looked at: templates (the vocabulary's, or those of the kind), the "
        "bare name, or the thirty of MACE's program. Names to keep go into the templates as well, else they stand "
        "bare.",
    )
    retain_empty: bool = Field(False, description="Keep the empty prompt as well.")

    @property
    def later(self) -> TargetTokens | None:
        """Which tokens of targets a later step of the method takes, where that is another choice."""
        return None


@dataclass(frozen=True)
class TextProblem:
    """What a closed-form method is given: token states in float64, one state a row.

    Attributes:
        targets: (T, d) tokens to erase. anchors: (T, d) what each becomes, row by row.
        retain: (M, d) tokens to keep.
        start: (d,) the start-token state, the same in every prompt.
        null: (P, d) the states of the empty prompt after the start token.
        owner: (T,) which concept each target row speaks of, from 0.
        subjects: (m, d) each concept's last subject token, the mean over its prompts.
        prompts: how many prompts the target rows come from; None: one a row.
        later: the same request by the tokens of a method's later steps, where it has such (`MethodConfig.later`).
    """

    targets: Tensor
    anchors: Tensor
    retain: Tensor
    start: Tensor
    null: Tensor
    owner: Tensor
    subjects: Tensor
    prompts: int | None = None
    later: TextProblem | None = None


def weight_of_kept(problem: TextProblem, scale: float, balanced: bool) -> float:
    """The weight of each state that is kept: `scale`, or of all of them beside all targets (see `BALANCED`)."""
    return scale * len(problem.targets) / max(1, len(problem.retain)) if balanced else scale


@dataclass(frozen=True)
class Solution:
    """Deltas, in the shapes that `Edit` holds."""

    text_maps: tuple[TextMap, ...] = ()
    modules: Mapping[str, Delta] | None = None


def joined(one: Solution, two: Solution) -> Solution:
    """Two solutions for different projections as one."""
    return Solution((*one.text_maps, *two.text_maps), {**(one.modules or {}), **(two.modules or {})})


def widened(solution: Solution, widths: Mapping[str, int]) -> Solution:
    """A solution for the first columns of some weights, with zeros for the columns behind them.

    Args:
        widths: by module path, the columns of its whole weight.
    """

    def wide(x: Tensor, path: str) -> Tensor:
        return F.pad(x, (0, widths[path] - x.shape[1]))

    maps = tuple(
        TextMap(wide(m.u.mT, path).mT, wide(m.v, path), (path,)) for m in solution.text_maps for path in m.modules
    )
    modules: dict[str, Delta] = {
        path: LowRank(d.b, wide(d.a, path)) if isinstance(d, LowRank) else Dense(wide(d.dw, path))
        for path, d in (solution.modules or {}).items()
    }
    return Solution(maps, modules)


class ClosedForm(Protocol):
    """A method: its settings, and one function."""

    Config: type[MethodConfig]

    @staticmethod
    def solve(
        problem: TextProblem, weights: Mapping[str, Tensor], config: Any, generator: torch.Generator
    ) -> Solution: ...
