"""Time the closed forms as printed on a part of their work, and scale it up to the whole."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from benchmarks import literal
from benchmarks.timing import timed
from excise.methods.closed_form.cure_config import CUREConfig
from excise.methods.closed_form.mace_config import MACEConfig
from excise.methods.closed_form.rece_config import RECEConfig
from excise.methods.closed_form.scapre_config import ScaPreConfig
from excise.methods.closed_form.speed import invariant_states
from excise.methods.closed_form.speed_config import SPEEDConfig
from excise.methods.closed_form.text_problem import TextProblem
from excise.methods.closed_form.uce_config import UCEConfig

LITERAL_WIDTH = 2304  # above which outer products are timed on a few states
LITERAL_STATES = 8  # targets and retained states each, there
LITERAL_ROWS = 9  # for ScaPre


@dataclass(frozen=True)
class Literal:
    """Result of a literal form.

    Attributes:
        new: by path, the new weights of some layers, or of some of their rows.
        seconds: extrapolated to all layers and rows.
        part: what was timed, in words.
        rows: by path, the rows in `new`; all rows if missing.
        problem: the problem that was solved, if it is smaller than the method's.
    """

    new: dict[str, Tensor]
    seconds: float
    part: str
    rows: dict[str, range] = field(default_factory=dict)
    problem: TextProblem | None = None


def literal_uce(p: TextProblem, weights: dict[str, Tensor], config: UCEConfig | MACEConfig) -> Literal:
    """Run UCE, or MACE's first step, on two matrices; in wide text on one, with few states."""
    if p.targets.shape[1] > LITERAL_WIDTH:
        return _literal_of_few(p, weights, config)
    some = _spread(weights, min(2, len(weights)))
    erase = getattr(config, "erase_scale", 1.0)
    new, seconds, _ = timed(
        lambda: {k: literal.uce(weights[k].double(), p, erase, config.retain_scale, config.ridge) for k in some}
    )
    return Literal(new, seconds * len(weights) / len(some), f"{len(some)} of {len(weights)} matrices")


def _literal_of_few(p: TextProblem, weights: dict[str, Tensor], config: UCEConfig | MACEConfig) -> Literal:
    """Run UCE with no state and with few, whose difference is the time of a state."""
    first, erase = next(iter(weights)), getattr(config, "erase_scale", 1.0)

    def of(states: int) -> tuple[TextProblem, Tensor, float]:
        part = replace(p, targets=p.targets[:states], anchors=p.anchors[:states], retain=p.retain[:states])
        W = weights[first].double()
        new, seconds, _ = timed(lambda: literal.uce(W, part, erase, config.retain_scale, config.ridge))
        return part, new, seconds

    (*_, without), (part, new, few) = of(0), of(LITERAL_STATES)
    states, timed_states = len(p.targets) + len(p.retain), 2 * LITERAL_STATES
    seconds = without + max(0.0, few - without) / timed_states * states
    return Literal({first: new}, seconds * len(weights), f"{timed_states} of {states} states", problem=part)


def literal_rece(p: TextProblem, weights: dict[str, Tensor], config: RECEConfig) -> Literal:
    """Run RECE's search for one concept, which sums over all layers, and the UCE steps of a round on two matrices."""
    first = p.owner == 0
    part = replace(p, targets=p.targets[first], anchors=p.anchors[first], retain=p.retain[:10], owner=p.owner[first])
    doubles, scale = {k: w.double() for k, w in weights.items()}, config.retain_scale
    some = _spread(weights, 2)
    now = {k: literal.uce(W, part, 1.0, scale, config.ridge) for k, W in doubles.items()}
    restoring, sums, _ = timed(lambda: literal.rece_restoring(doubles, now, part, config))
    again = replace(part, targets=restoring)
    new = {
        k: literal.uce(now[k], again, 1.0, scale / 10, config.round_ridge, list(part.targets), config.hold)
        for k in some
    }
    _, uce, _ = timed(lambda: {k: literal.uce(doubles[k], p, 1.0, scale, config.ridge) for k in some})
    concepts = len(p.subjects)
    seconds = 2 * uce * len(weights) / len(some) + sums * concepts
    part_ = f"the search of 1 of {concepts} concepts, UCE of {len(some)} of {len(weights)} matrices"
    return Literal(new, seconds, part_, problem=part)


def literal_cure(p: TextProblem, weights: dict[str, Tensor], config: CUREConfig) -> Literal:
    """Run CURE on one matrix."""
    some = _spread(weights, 1)
    new, seconds, _ = timed(lambda: {k: literal.cure(weights[k].double(), p, config) for k in some})
    return Literal(new, seconds * len(weights) / len(some), f"{len(some)} of {len(weights)} matrices")


def literal_speed(p: TextProblem, weights: dict[str, Tensor], config: SPEEDConfig) -> Literal:
    """Run SPEED on the first matrix, whose random draws can be reproduced."""
    first = next(iter(weights))
    W, generator = weights[first].double(), torch.Generator().manual_seed(0)
    K = invariant_states(p, config.invariants, generator)

    def run() -> dict[str, Tensor]:
        shape = (literal.speed_kept(W, p), config.draws)
        return {first: literal.speed(W, p, config, K, torch.randn(shape, generator=generator, dtype=torch.float64))}

    new, seconds, _ = timed(run)
    return Literal(new, seconds * len(weights), f"1 of {len(weights)} matrices")


def literal_scapre(p: TextProblem, weights: dict[str, Tensor], config: ScaPreConfig) -> Literal:
    """Run ScaPre's masks on the first matrix, whose draws can be reproduced, and its solves on a few rows (or all)."""
    first = next(iter(weights))
    W, total = weights[first].double(), sum(len(w) for w in weights.values())
    (h, m), masks, _ = timed(lambda: literal.scapre_scores(W, p, config, torch.Generator().manual_seed(0)))
    count = len(W) if config.form == "paper" else min(LITERAL_ROWS, len(W))

    def solve(count: int) -> Tensor:
        return literal.SCAPRE[config.form](W, p, config, h, m, range(count))

    new, solves, _ = timed(lambda: solve(count))
    setting_up = 0.0 if config.form == "paper" else timed(lambda: solve(1))[1]  # once a matrix, not once a row
    rows = max(0.0, solves - setting_up) * total / (count - 1 if setting_up else count)
    seconds = masks * total / len(W) + setting_up * len(weights) + rows
    part = f"masks of {len(W)} and solves of {count} of {total} rows"
    return Literal({first: new}, seconds, part, {first: range(count)})


def _spread(weights: dict[str, Tensor], count: int) -> list[str]:
    """Return the first path and others, evenly spaced."""
    paths = list(weights)
    return [paths[i * (len(paths) - 1) // max(1, count - 1)] for i in range(count)]
