"""Several targets of a method that is defined for one: each is trained alone, then the changes become one."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from excise.edits.apply import temporarily_applied
from excise.edits.deltas import Delta, added_up, on_cpu
from excise.edits.fuse import shares_of, times
from excise.errors import ExciseWarning
from excise.families.capabilities import STATIC_TEXT
from excise.methods.trained.material import filled
from excise.support.progress import part_of
from excise.training.calibration import ENOUGH
from excise.training.config import FusedConfig, TrainedConfig
from excise.training.probes import Preview
from excise.training.problem import TrainingProblem, TrainingResult
from excise.training.run import preview_of


def one_by_one(
    problem: TrainingProblem,
    config: TrainedConfig,
    train: Callable[[TrainingProblem], TrainingResult],
    keeps_nothing: bool,
) -> TrainingResult:
    """Train one target after the other, each from the same model, and join what came of it.

    Changes of keys and values of text are fused (`excise.edits.fuse`) where the settings say how; all others are added
    up, and hooks stand side by side. The evidence holds that of each target, by name, and what the judge sees of the
    joined change ("joined").

    Args:
        keeps_nothing: whether what no prompt gives is to be retained.

    Raises:
        ConceptError: the judge never sees one of the targets; nothing is trained then.
    """
    with problem.original():
        preview = preview_of(problem)
    results = [train(alone(problem, number)) for number in range(len(problem.concepts))]
    changes: list[Mapping[str, Delta]] = [result.modules for result in results]
    if isinstance(config, FusedConfig) and STATIC_TEXT in problem.family.provides:
        changes = fused(problem, config, changes, keeps_nothing)
    modules, hooks = added_up(changes), tuple(hook for result in results for hook in result.hooks)
    evidence: dict[str, Any] = {"targets": {c.name: r.evidence for c, r in zip(problem.concepts, results, strict=True)}}
    if preview is not None and not hooks:
        evidence["joined"] = looked_at(problem, preview, modules)
    return TrainingResult(modules, evidence, hooks=hooks)


def looked_at(problem: TrainingProblem, preview: Preview, modules: Mapping[str, Delta]) -> dict[str, float]:
    """What the judge sees of the joined change; a warning where a target is not gone enough."""
    with temporarily_applied(problem.family, modules):
        rates = preview.rates(preview.draw(part_of(problem.say, "looking at all targets together", 0, 1)))
    if rates.erase < ENOUGH:
        warnings.warn(
            f"of the least erased target {rates.erase:.0%} of the pictures are without it once the targets' changes "
            "are joined; erase them one after another instead, each on top of the others (--edit).",
            ExciseWarning,
            stacklevel=2,
        )
    return vars(rates)


def alone(problem: TrainingProblem, number: int) -> TrainingProblem:
    """The problem of one target, with a folder of its own for checkpoints; its progress says which target it is."""
    count, concept = len(problem.concepts), problem.concepts[number]

    def say(what: str, done: float, total: int) -> None:
        problem.say(f"target {number + 1} of {count} alone: {what}", done, total)

    gone = [p for probes in problem.probes.values() for p in probes if p.role == "gone"]  # by earlier edits
    own = [*(p for p in problem.probes.get(concept.name, ()) if p.role != "gone"), *gone]
    folder = None if problem.folder is None else problem.folder / str(number)
    return replace(problem, concepts=[concept], probes={**problem.probes, concept.name: own}, folder=folder, say=say)


def fused(
    problem: TrainingProblem, config: FusedConfig, changes: Sequence[Mapping[str, Delta]], keeps_nothing: bool
) -> list[Mapping[str, Delta]]:
    """The changes of each target, those of keys and values of text times its share (eq. 7 of MACE).

    Where the changes are also about what no prompt gives, that is among the states that they keep their say on.
    """
    reading = {p.path for p in problem.family.projections("kv")}
    if not any(path in reading for change in changes for path in change):
        return list(changes)
    nothing = [""]
    asked = [[*filled(problem, c, c.words), *([] if keeps_nothing else nothing)] for c in problem.concepts]
    kept = [*problem.retain, *(nothing if keeps_nothing else [])]
    with problem.original():
        shares = shares_of(problem.family, asked, kept, config.fusion_retain_scale, config.fusion_ridge, problem.say)
    return [
        {path: on_cpu(times(d, share)) if path in reading else d for path, d in change.items()}
        for change, share in zip(changes, shares, strict=True)
    ]
