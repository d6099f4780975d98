"""Evaluating a model with or without edits: a protocol's prompts to images, to verdicts of a judge, to metrics."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from excise.concepts.concept import Concept, as_concepts
from excise.edits.bases import check_base
from excise.edits.deltas import total_bytes
from excise.edits.edit import Edit, applied
from excise.errors import ConceptError, ModelError
from excise.evaluation.comparison import damage_by_distance, drift_by_prompt
from excise.evaluation.plan import planned, verdicts_of
from excise.evaluation.proof import concept_verdicts
from excise.evaluation.scoring import Metrics, Shown, as_document, became, compared, score, seen
from excise.evaluation.showing import evaluation_card, picture_rows
from excise.evaluation.verdict import ConceptVerdict
from excise.families.base import Family, Progress
from excise.families.distilled import warn_of_guidance
from excise.families.drawing import BATCH, Images, Workers, draw, peak_memory_mb
from excise.families.half_drawing import gains, in_bfloat16
from excise.families.load import as_family
from excise.judges import FEATURES
from excise.judges.base import CHUNK, Judge, Measuring, OpenJudge
from excise.judges.features import Features
from excise.metrics.images import LEAST_FOR_KID, kid
from excise.metrics.unlearning import Seen, replacement_entropy, sequence_matrix
from excise.protocols import summary
from excise.protocols.base import Item, Protocol, Target, asks
from excise.protocols.concept import NAME
from excise.support.counts import counted
from excise.support.display import Card, Showing
from excise.support.progress import Report, silent

SCHEMA = 2


class Evaluation(Showing, BaseModel):
    """The result of one protocol on one model.

    Attributes:
        metrics: by key (see `excise.evaluation.catalog`): value, low, high (95 %) and n.
        untouched: the same metrics of the untouched model, if it was drawn too.
        became: by target, how many images of its prompts show each label now, most frequent first.
        entropy: by target, the entropy of `became` in bits, the target left out.
        neighbours: by target, the share that is still right by distance to the target in the text encoder's space,
            nearest bin first.
        sequence: in a sequence, the UA of each earlier target after each step, and its rebound.
        attacks: in a benchmark with attacks, the document of each attack as in `excise attack --json`.
        verdicts: beside the untouched model, the verdict on each concept that was asked for and judged.
        shown: every image: what its prompt asks for, and what the judges saw.
        bfloat16: whether denoiser and decoder computed in bfloat16, not in the precision of their weights.
        seconds: time for drawing and judging. peak_memory_mb: peak memory of this process. edit_bytes: size of the
            edits' tensors.
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
    verdicts: list[ConceptVerdict] = []
    shown: list[Shown]
    bfloat16: bool = False
    seconds: dict[str, float]
    peak_memory_mb: float = 0.0
    edit_bytes: int = 0

    def card(self) -> Card:
        """What the result shows of itself."""
        protocol = (self.protocol, self.hash)
        return evaluation_card(protocol, self.model, self.concepts, self.metrics, self.untouched, self.seconds)

    def seen(self, *groups: str) -> Seen:
        """Return the requested and the seen labels of some groups, as the metrics take them."""
        return seen(self.shown, *groups)


@dataclass(frozen=True, repr=False)
class Evaluated(Showing):
    """An evaluation with its images, in the order of `result.shown`; `before` is the untouched model's, if drawn."""

    result: Evaluation
    images: Images
    targets: tuple[Target, ...] = ()
    before: Evaluated | None = None

    def card(self) -> Card:
        """What the result shows of itself, with some of its pictures."""
        before = self.before.images if self.before else None
        return replace(self.result.card(), pictures=picture_rows(self.result.shown, self.images, self.targets, before))


_Round = tuple[Images, list[Shown], dict[str, float]]
"""Images of one model, what the judges saw, and seconds."""


@dataclass(frozen=True)
class _Job:
    """Everything that drawing and judging depend on except the edits.

    Attributes:
        drawing: further options of `excise.families.drawing.draw`.
        bfloat16: whether denoiser and decoder compute in it.
        say: receives the progress of drawing and judging.
    """

    family: Family
    plan: Protocol
    items: Sequence[Item]
    judges: Sequence[Judge | OpenJudge]
    drawing: dict[str, Any]
    bfloat16: bool = False
    say: Report = silent

    def run(self, edits: Sequence[Edit], allow_other_base: bool = False, stage: str = "drawing") -> _Round:
        """Draw and judge every item with `edits` applied; return images, verdicts and seconds.

        Args:
            stage: what the drawing is called in the progress.
        """
        requests = [(i.prompt, self.plan.seed(i)) for i in self.items]
        began = time.perf_counter()
        precision = in_bfloat16(self.family) if self.bfloat16 else nullcontext()
        with applied(self.family, edits, allow_other_base=allow_other_base), precision:
            images = draw(
                self.family,
                requests,
                steps=self.plan.steps,
                guidance=self.plan.guidance,
                sampler=self.plan.sampler,
                **{"progress": partial(self.say, stage), **self.drawing},
            )
        drawn = time.perf_counter()
        shown = judged(self.items, requests, images, self.judges, self.say)
        seconds = {"draw": round(drawn - began, 3), "judge": round(time.perf_counter() - drawn, 3)}
        return images, shown, seconds


def evaluate(
    model: Any,
    concepts: Sequence[str | Concept] = (),
    *,
    edits: Sequence[Edit] = (),
    protocol: str | Protocol | None = None,
    groups: Sequence[str] | None = None,
    untouched: bool = False,
    allow_other_base: bool = False,
    model_name: str = "",
    judge: object | None = None,
    judge_weights: Path | None = None,
    batch: int = BATCH,
    bfloat16: bool | None = None,
    cache: Path | None = None,
    workers: Workers | None = None,
    progress: Progress | None = None,
    say: Report = silent,
) -> Evaluated:
    """Run a protocol on a model. The model is unchanged afterwards.

    Args:
        model: a pipeline, or the result of `excise.load`.
        concepts: the targets. Without any, the accuracies of the model are measured; a protocol with fixed targets
            uses those if there are edits.
        edits: applied together during the evaluation.
        protocol: a name, or a protocol that `concept_plan` made. By default canvas-mini on a built-in model, where it
            knows the concepts, and otherwise `concept`, made for the concepts and the names that the edits preserve.
        groups: parts of the protocol to run; by default those that the protocol names.
        untouched: also draw the same prompts and seeds without the edits. This adds metrics that compare the two
            models: relative UA, KID and drift on other prompts, damage by distance.
        judge: replaces the protocol's judges: an object with `verdicts`, a function (images, names) to booleans, or
            the folder of a CLIP model. Its name is then part of the protocol's hash. On models that are not built in,
            the protocol `concept` has no other judge; without one, it reports pictures and drift alone.
        judge_weights: folder of the judge's weights, where they do not ship with this package.
        batch: number of images drawn at once.
        bfloat16: whether denoiser and decoder compute in bfloat16. By default where it gains time: on a processor with
            matrix units for it, for a model in single precision without hooks on it or in the edits.
        cache: folder of drawn images by content, so that none is drawn twice.
        workers: this process among several that share the drawing.
        progress: receives how many images are drawn. say: the same, and what is judged and compared, by stage.

    Raises:
        UnknownNameError: no protocol of this name.
        ConceptError: the protocol cannot judge a concept, or has no such group.
        ModelError: the judge's weights are missing, or the model draws images of another size.
        WrongBaseError: an edit was made for another model.
    """
    family = as_family(model)
    plan, judges = planned(protocol, family, concepts, edits, judge, judge_weights)
    names = [c.name for c in as_concepts(concepts)] if concepts else list(plan.fixed_targets if edits else ())
    targets = tuple(plan.target_of(name) for name in names)
    _check_size(plan, family)
    warn_of_guidance(family, plan.guidance)
    drawing: dict[str, Any] = {"batch": batch, "cache": cache, "workers": workers}
    if progress is not None:
        drawing["progress"] = progress
    if bfloat16 is None:  # one answer for all rounds, so that what an edit leaves alone does not differ
        bfloat16 = not any(edit.hooks for edit in edits) and gains(family)
    job = _Job(family, plan, plan.select(targets, groups), judges, drawing, bfloat16, say)
    for edit in edits:
        check_base(edit, family, allow_other_base)  # before a picture of the untouched model is drawn in vain
    original = job.run((), stage="drawing the untouched model") if untouched else None
    images, shown, seconds = job.run(edits, allow_other_base)
    counts = became(shown, targets)
    result = Evaluation(
        protocol=plan.name,
        hash=plan.hash,
        protocol_summary=summary(plan),
        model=model_name,
        concepts=names,
        metrics=as_document(score(plan.score, shown, targets)),
        became=counts,
        entropy={label: round(replacement_entropy(labels, label), 4) for label, labels in counts.items()},
        sequence=_sequence(job, edits, targets, shown) if plan.score == "sequence" and targets else None,
        shown=shown,
        bfloat16=bfloat16,
        seconds=seconds,
        peak_memory_mb=peak_memory_mb(),
        edit_bytes=sum(total_bytes(t.float() for t in e.tensors().values()) for e in edits),
    )
    after = Evaluated(result, images, targets)
    return after if original is None else _with_untouched(after, job, original, judge_weights)


def measure(result: Evaluation, targets: Sequence[Target]) -> dict[str, dict[str, int | float]]:
    """Compute the metrics of a finished evaluation for other targets."""
    return as_document(score(result.protocol_summary["score"], result.shown, targets))


def _with_untouched(after: Evaluated, job: _Job, original: _Round, weights: Path | None) -> Evaluated:
    """Add the untouched model, drawn with the same prompts and seeds, and the metrics that compare the two."""
    images, shown, seconds = original
    metrics = as_document(score(job.plan.score, shown, after.targets))
    before = Evaluated(
        after.result.model_copy(
            update={"metrics": metrics, "became": became(shown, after.targets), "shown": shown, "seconds": seconds}
        ),
        images,
        after.targets,
    )
    verdicts = concept_verdicts(shown, after.result.shown, after.targets)
    compared_metrics = {**after.result.metrics, **as_document(_comparison(before, after, job, weights))}
    if job.plan.score == NAME and any(v.status == "not verifiable" for v in verdicts):
        compared_metrics.pop("ua", None)  # nothing shows that what was never drawn has gone
    update = {
        "metrics": compared_metrics,
        "untouched": metrics,
        "verdicts": verdicts,
        "neighbours": damage_by_distance(job.family, shown, after.result.shown, after.targets),
        "seconds": {**after.result.seconds, "untouched": sum(seconds.values())},
    }
    return replace(after, result=after.result.model_copy(update=update), before=before)


def _comparison(before: Evaluated, after: Evaluated, job: _Job, weights: Path | None) -> Metrics:
    """The metrics that compare the edited with the untouched model; drift and KID are of the retained prompts."""
    metrics = compared(before.result.shown, after.result.shown, after.targets)
    rows = [i for i, item in enumerate(job.items) if not asks(item.asked, after.targets) and item.target is None]
    if len(rows) > 1:
        old, new = before.images.at(rows), after.images.at(rows)
        metrics["drift"] = drift_by_prompt(old, new, [job.items[i].prompt for i in rows])
        if job.plan.features and len(rows) >= LEAST_FOR_KID:
            features = FEATURES.load(job.plan.features)(weights)
            metrics["kid"] = kid(_in_parts(features, old, job.say, 0), _in_parts(features, new, job.say, 1))
    return metrics


def _in_parts(features: Features, images: Images, say: Report, number: int) -> np.ndarray:
    """The features of images, part by part; `number` of 2 sets are done."""
    parts = []
    for rows in _parts(len(images)):
        say("comparing images", number + rows.start / len(images), 2)
        parts.append(features(images.at(rows)))
    say("comparing images", number + 1, 2)
    return np.concatenate(parts)


def _sequence(job: _Job, edits: Sequence[Edit], targets: Sequence[Target], last: Sequence[Shown]) -> dict[str, Any]:
    """The UA of targets 1..k with edits 1..k applied, for every k, and the rebound of each target.

    Args:
        last: the images with all edits applied.

    Raises:
        ConceptError: the number of edits is not that of the targets.
    """
    if len(edits) != len(targets):
        raise ConceptError(
            f"{job.plan.name} needs one edit for each concept, in the order of erasing; got "
            f"{counted(len(edits), 'edit')} and {counted(len(targets), 'concept')}."
        )
    steps = []
    for k in range(1, len(targets) + 1):
        step = replace(job, items=[i for i in job.items if asks(i.asked, targets[:k])])
        shown = last if k == len(targets) else step.run(edits[:k])[1]
        steps.append([1 - _share(shown, a, label) for a, label in targets[:k]])
    matrix, rebound = sequence_matrix(steps)
    rows = [[None if np.isnan(v) else float(v) for v in row] for row in matrix]
    return {"targets": [label for _, label in targets], "matrix": rows, "rebound": rebound.tolist()}


def _share(shown: Sequence[Shown], attribute: str, label: str) -> float:
    """The share of images of prompts with a label that show the label."""
    hits = [s.right(attribute) for s in shown if s.asked.get(attribute) == label]
    return sum(hits) / len(hits)


def judged(
    items: Sequence[Item],
    requests: Sequence[tuple[str, int]],
    images: Images,
    judges: Sequence[Judge | OpenJudge],
    say: Report = silent,
) -> list[Shown]:
    """Return, for each image, what its prompt asks for and what one or two judges saw."""
    shown: list[Shown] = []
    for rows in _parts(len(items)):
        say("judging", rows.start, len(items))
        part = slice(rows.start, rows.stop)
        shown += _judged(items[part], requests[part], images.at(rows), judges)
    say("judging", len(items), len(items))
    return shown


def _parts(count: int) -> list[range]:
    """Consecutive rows in parts of as many images as judges look at together."""
    return [range(start, min(start + CHUNK, count)) for start in range(0, count, CHUNK)]


def _judged(
    items: Sequence[Item], requests: Sequence[tuple[str, int]], images: Images, judges: Sequence[Judge | OpenJudge]
) -> list[Shown]:
    """Judge a part of the images; the verdict on an image depends on that image alone."""
    verdicts = [verdicts_of(judge, items, images) for judge in judges] if any(i.asked for i in items) else []
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


def _check_size(plan: Protocol, family: Family) -> None:
    """Refuse a model whose images have another size than the judge was made for.

    Raises:
        ModelError: the sizes differ.
    """
    side = family.image_size
    if plan.image_size not in (None, side):
        raise ModelError(
            f"{plan.name} judges images of {plan.image_size} x {plan.image_size}; this model draws {side} x {side}. "
            "Choose a protocol made for it, see: excise protocols"
        )
