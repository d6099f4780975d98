"""Several targets of a method that is defined for one: each is trained alone, then the changes become one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from excise.edits.deltas import Delta, add, on_cpu
from excise.edits.fuse import shares_of, times
from excise.families.capabilities import STATIC_TEXT
from excise.methods.trained.material import filled
from excise.training.config import FusedConfig, TrainedConfig
from excise.training.problem import TrainingProblem, TrainingResult


def one_by_one(
    problem: TrainingProblem, config: TrainedConfig, train: Callable[[TrainingProblem], TrainingResult]
) -> TrainingResult:
    """Train one target after the other, each from the same model, and join what came of it.

    Changes of keys and values of text are fused (`excise.edits.fuse`) where the settings say how; all others are added
    up, and hooks stand side by side. The evidence holds that of each target, by name.
    """
    results = [train(alone(problem, number)) for number in range(len(problem.concepts))]
    changes = [result.modules for result in results]
    fuses = isinstance(config, FusedConfig) and STATIC_TEXT in problem.family.provides
    return TrainingResult(
        added_up(fused(problem, config, changes) if fuses else changes),  # type: ignore[arg-type]
        {"targets": {c.name: r.evidence for c, r in zip(problem.concepts, results, strict=True)}},
        hooks=tuple(hook for result in results for hook in result.hooks),
    )


def alone(problem: TrainingProblem, number: int) -> TrainingProblem:
    """The problem of one target, with a folder of its own for checkpoints; its progress says which target it is."""
    count = len(problem.concepts)

    def say(what: str, done: float, total: int) -> None:
        problem.say(f"target {number + 1} of {count} alone: {what}", done, total)

    folder = None if problem.folder is None else problem.folder / str(number)
    return replace(problem, concepts=[problem.concepts[number]], folder=folder, say=say)


def fused(
    problem: TrainingProblem, config: FusedConfig, changes: Sequence[Mapping[str, Delta]]
) -> list[Mapping[str, Delta]]:
    """The changes of each target, those of keys and values of text times its share (eq. 7 of MACE)."""
    asked = [filled(problem, c, c.words) for c in problem.concepts]
    reading = {p.path for p in problem.family.projections("kv")}
    with problem.original():
        shares = shares_of(
            problem.family, asked, [*problem.retain, ""], config.fusion_retain_scale, config.fusion_ridge, problem.say
        )
    return [
        {path: on_cpu(times(d, share)) if path in reading else d for path, d in change.items()}
        for change, share in zip(changes, shares, strict=True)
    ]


def added_up(changes: Sequence[Mapping[str, Delta]]) -> dict[str, Delta]:
    """The sum of changes, map by map."""
    whole: dict[str, Delta] = {}
    for change in changes:
        for path, delta in change.items():
            whole[path] = add(whole[path], delta) if path in whole else delta
    return whole
