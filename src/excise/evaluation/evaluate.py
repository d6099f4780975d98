"""Protocol -> images -> judge -> metrics, for a model with or without edits."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from excise.concepts.concept import Concept, as_concepts
from excise.edits.deltas import total_bytes
from excise.edits.edit import Edit, applied
from excise.errors import ConceptError, ModelError
from excise.evaluation.comparison import damage_by_distance, drift_by_prompt
from excise.evaluation.scoring import Shown, as_document, became, compared, score, seen
from excise.families.base import Family, Progress
from excise.families.drawing import BATCH, Images, Workers, draw, peak_memory_mb
from excise.families.load import as_family
from excise.judges import FEATURES, JUDGES, Judge, Measuring
from excise.metrics.images import kid
from excise.metrics.unlearning import Seen, replacement_entropy, sequence_matrix
from excise.protocols import PROTOCOLS, summary
from excise.protocols.base import Item, Protocol, Target, asks

SCHEMA = 2


class Evaluation(BaseModel):
    """The result of one protocol on one model; `metrics` maps a name to value, low, high (95 %) and n.

    Attributes:
        untouched: the same metrics of the model without the edits, where it was drawn beside.
        became: by target, what its prompts show now, most frequent first. entropy: of that, in bits, target left out.
        sequence: with the protocol for it, the UA of each earlier target after each step, and its rebound.
        neighbours: share still right by distance to the target in the text encoder's space, nearest bin first.
        attacks: in a benchmark with attacks, every attack as `excise attack --json` has it.
        shown: every image: asked, seen.
        seconds: of drawing and judging. peak_memory_mb: of this process. edit_bytes: of the edits' tensors.
    """

    model_config = ConfigDict(frozen=True)

    schema_version: int = SCHEMA
    protocol: str
    hash: str
    protocol_summary: dict[str, Any]
    model: str
    concepts: list[str]
    metrics: dict[str, dict[str, int | float]]
    untouched: dict[str, dict[str, int | float]] | None = None
    became: dict[str, dict[str, int]]
    entropy: dict[str, float] = {}
    neighbours: dict[str, list[dict[str, Any]]] = {}
    sequence: dict[str, Any] | None = None
    attacks: list[dict[str, Any]] = []
    shown: list[Shown]
    seconds: dict[str, float]
    peak_memory_mb: float = 0.0
    edit_bytes: int = 0

    def seen(self, *groups: str) -> Seen:
        """Asked and seen labels of some groups, as the metrics take them."""
        return seen(self.shown, *groups)


@dataclass(frozen=True)
class Evaluated:
    """An evaluation with its images, in the order of `result.shown`; `before` is the untouched model's, if drawn."""

    result: Evaluation
    images: Images
    targets: tuple[Target, ...] = ()
    before: Evaluated | None = None


@dataclass(frozen=True)
class _Job:
    """What drawing and judging need to know, the same for a model with and without edits."""

    family: Family
    plan: Protocol
    items: Sequence[Item]
    judges: Sequence[Judge]
    options: dict[str, Any]

    def run(
        self, edits: Sequence[Edit], allow_other_base: bool = False
    ) -> tuple[Images, list[Shown], dict[str, float]]:
        requests = [(i.prompt, self.plan.seed(i)) for i in self.items]
        began = time.perf_counter()
        with applied(self.family, edits, allow_other_base=allow_other_base):
            images = draw(
                self.family,
                requests,
                steps=self.plan.steps,
                guidance=self.plan.guidance,
                sampler=self.plan.sampler,
                **self.options,
            )
        drawn = time.perf_counter()
        shown = judged(self.items, requests, images, self.judges)
        seconds = {"draw": round(drawn - began, 3), "judge": round(time.perf_counter() - drawn, 3)}
        return images, shown, seconds


def evaluate(
    model: Any,
    concepts: Sequence[str | Concept] = (),
    *,
    edits: Sequence[Edit] = (),
    protocol: str = "canvas-mini",
    groups: Sequence[str] | None = None,
    untouched: bool = False,
    allow_other_base: bool = False,
    model_name: str = "",
    judge: Judge | None = None,
    judge_weights: Path | None = None,
    batch: int = BATCH,
    cache: Path | None = None,
    workers: Workers | None = None,
    progress: Progress | None = None,
) -> Evaluated:
    """Run a protocol. The model is left as it was found.

    Args:
        model: a pipeline, or what `excise.load` returned.
        concepts: the targets; with none, the model's own accuracies are measured (or the protocol's fixed targets).
        edits: applied together for the time of the evaluation.
        groups: parts of the protocol to run; by default those that it names for the case.
        untouched: draw the same prompts and seeds without the edits too. Yields what only the pair can tell: UA
            relative to what the model showed before, KID and drift on the other prompts, damage by distance.
        judge: takes the place of the protocol's judge, whose name then stands in the result; no second judge is asked.
        judge_weights: folder of the judge's weights, where they do not ship with this package.
        cache: folder in which drawn images are kept by content, so that none is drawn twice.
        workers: this process among several that share the drawing.

    Raises:
        UnknownNameError, ConceptError, ModelError: bad input, in one sentence.
    """
    plan: Protocol = PROTOCOLS.load(protocol)()
    names = [c.name for c in as_concepts(concepts)] if concepts else list(plan.fixed_targets if edits else ())
    targets = tuple(plan.target_of(name) for name in names)
    judges = _judges(plan, judge, judge_weights)
    # What a judge calls itself may say more than the protocol: which of the local weights it was given.
    plan = replace(plan, judge=judges[0].name, second=judges[1].name if len(judges) > 1 else None)
    family = as_family(model)
    _check_size(plan, family)
    items = plan.select(targets, groups)
    options = {"batch": batch, "cache": cache, "workers": workers, "progress": progress}
    job = _Job(family, plan, items, judges, options)
    images, shown, seconds = job.run(edits, allow_other_base)
    result = Evaluation(
        protocol=plan.name,
        hash=plan.hash,
        protocol_summary=summary(plan),
        model=model_name,
        concepts=names,
        metrics=as_document(score(plan.score, shown, targets)),
        became=became(shown, targets),
        shown=shown,
        seconds=seconds,
        peak_memory_mb=peak_memory_mb(),
        edit_bytes=sum(total_bytes(t.float() for t in e.tensors().values()) for e in edits),
    )
    update: dict[str, Any] = {}
    if plan.score == "sequence" and targets:
        update["sequence"] = _sequence(job, edits, targets, shown)
    update["entropy"] = {label: round(replacement_entropy(counts, label), 4) for label, counts in result.became.items()}
    after = Evaluated(result.model_copy(update=update), images, targets)
    return _beside(after, job, judge_weights) if untouched else after


def measure(result: Evaluation, targets: Sequence[Target]) -> dict[str, dict[str, int | float]]:
    """The metrics of a finished evaluation through the eyes of other targets."""
    return as_document(score(result.protocol_summary["score"], result.shown, targets))


def _beside(after: Evaluated, job: _Job, weights: Path | None) -> Evaluated:
    """The evaluation with the untouched model's images of the same prompts and seeds beside it."""
    images, shown, seconds = job.run(())
    own = as_document(score(job.plan.score, shown, after.targets))
    base = after.result.model_copy(
        update={"metrics": own, "became": became(shown, after.targets), "shown": shown, "seconds": seconds}
    )
    found = compared(shown, after.result.shown, after.targets)
    kept = [i for i, item in enumerate(job.items) if not asks(item.asked, after.targets) and item.target is None]
    if len(kept) > 1:
        old, new = images.at(kept), after.images.at(kept)
        found["drift"] = drift_by_prompt(old, new, [job.items[i].prompt for i in kept])
        if job.plan.features:
            features = FEATURES.load(job.plan.features)(weights)
            found["kid"] = kid(features(old), features(new))
    neighbours = damage_by_distance(job.family, shown, after.result.shown, after.targets)
    update = {
        "metrics": {**after.result.metrics, **as_document(found)},
        "untouched": own,
        "neighbours": neighbours,
        "seconds": {**after.result.seconds, "untouched": sum(seconds.values())},
    }
    before = Evaluated(base, images, after.targets)
    return replace(after, result=after.result.model_copy(update=update), before=before)


def _sequence(job: _Job, edits: Sequence[Edit], targets: Sequence[Target], last: Sequence[Shown]) -> dict[str, Any]:
    """UA of targets 1..k with edits 1..k in force, for every k; `last` is what all of them together show.

    Raises:
        ConceptError: not one edit a target.
    """
    if len(edits) != len(targets):
        raise ConceptError(
            f"{job.plan.name} needs one edit for each concept, in the order of erasing; {len(edits)} edits and "
            f"{len(targets)} concepts were given."
        )
    steps = []
    for k in range(1, len(targets) + 1):
        asking = replace(job, items=[i for i in job.items if asks(i.asked, targets[:k])])
        shown = last if k == len(targets) else asking.run(edits[:k])[1]
        steps.append([1 - _share(shown, a, label) for a, label in targets[:k]])
    matrix, rebound = sequence_matrix(steps)
    rows = [[None if np.isnan(v) else float(v) for v in row] for row in matrix]
    return {"targets": [label for _, label in targets], "matrix": rows, "rebound": rebound.tolist()}


def _share(shown: Sequence[Shown], attribute: str, label: str) -> float:
    """Of the images that ask for a label, the share that shows it."""
    hits = [s.right(attribute) for s in shown if s.asked.get(attribute) == label]
    return sum(hits) / len(hits)


def judged(
    items: Sequence[Item], requests: Sequence[tuple[str, int]], images: Images, judges: Sequence[Judge]
) -> list[Shown]:
    """What was asked for beside what one judge, or two, saw."""
    verdicts = [judge.verdicts(images) for judge in judges] if any(i.asked for i in items) else []
    by_image = [[{a: v[a][i] for a in v} for v in verdicts] for i in range(len(items))]
    numbers: dict[str, list[float]] = {}
    for judge in judges:
        if isinstance(judge, Measuring):
            numbers |= judge.values(images, [i.prompt for i in items])
    return [
        Shown(
            group=item.group,
            prompt=item.prompt,
            seed=seed,
            asked=dict(item.asked),
            saw=views[0] if views else {},
            second=views[1] if len(views) > 1 else {},
            values={name: column[i] for name, column in numbers.items()},
            target=item.target,
        )
        for i, (item, (_, seed), views) in enumerate(zip(items, requests, by_image, strict=True))
    ]


def _judges(plan: Protocol, judge: Judge | None, weights: Path | None) -> list[Judge]:
    """The judges to ask, loaded before anything is drawn: what is missing is said at once."""
    if judge is not None:
        return [judge]
    return [JUDGES.load(name)(weights) for name in (plan.judge, plan.second) if name]


def _check_size(plan: Protocol, family: Family) -> None:
    """A judge knows pictures of one kind only.

    Raises:
        ModelError: the model draws pictures of another size.
    """
    side = family.image_size
    if plan.image_size not in (None, side):
        raise ModelError(
            f"{plan.name} judges pictures of {plan.image_size} x {plan.image_size}; this model draws {side} x {side}. "
            "Choose a protocol made for it, see: excise protocols"
        )
