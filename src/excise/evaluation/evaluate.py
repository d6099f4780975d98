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

from excise.concepts.concept import Concept, as_concepts
from excise.edits.bases import check_base
from excise.edits.deltas import total_bytes
from excise.edits.edit import Edit, applied
from excise.errors import ConceptError, ModelError
from excise.evaluation.plan import embedding_weights, planned
from excise.evaluation.result import Evaluated, Inquiry, Round
from excise.evaluation.scoring import Shown
from excise.evaluation.verdicts import judged
from excise.families.base import Family, Progress
from excise.families.distilled import warn_of_guidance
from excise.families.drawing import BATCH, Workers, draw, peak_memory_mb
from excise.families.half_drawing import gains, in_bfloat16
from excise.families.load import as_family
from excise.judges.base import Judge, OpenJudge
from excise.metrics.unlearning import sequence_matrix
from excise.protocols.base import Item, Protocol, Target, asks
from excise.support.counts import counted
from excise.support.progress import Report, silent


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

    def run(self, edits: Sequence[Edit], allow_other_base: bool = False, stage: str = "drawing") -> Round:
        """Draw and judge every item with `edits` applied; return what it drew.

        Args:
            stage: what the drawing is called in the progress.
        """
        requests = [(i.prompt, self.plan.seed(i)) for i in self.items]
        began = time.perf_counter()
        precision = in_bfloat16(self.family) if self.bfloat16 else nullcontext()
        with applied(self.family, edits, allow_other_base=allow_other_base), precision:
            once = list(dict.fromkeys(requests))
            images = draw(
                self.family,
                once,
                steps=self.plan.steps,
                guidance=self.plan.guidance,
                sampler=self.plan.sampler,
                **{"progress": partial(self.say, stage), **self.drawing},
            )
        place = {request: i for i, request in enumerate(once)}
        images = images.at([place[request] for request in requests])
        drawn = time.perf_counter()
        shown = judged(self.items, requests, images, self.judges, self.say)
        seconds = {"draw": round(drawn - began, 3), "judge": round(time.perf_counter() - drawn, 3)}
        return Round(images, shown, seconds)


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
    inquiry = Inquiry(plan, job.items, targets)
    original = job.run((), stage="drawing the untouched model") if untouched else None
    drawn = job.run(edits, allow_other_base)
    after = inquiry.measured(
        drawn,
        model=model_name,
        sequence=_sequence(job, edits, targets, drawn.shown) if plan.score == "sequence" and targets else None,
        bfloat16=bfloat16,
        peak_memory_mb=peak_memory_mb(),
        edit_bytes=sum(total_bytes(t.float() for t in e.tensors().values()) for e in edits),
    )
    if original is None:
        return after
    compared_by = embedding_weights(judge, judge_weights)
    return inquiry.beside(after, original, family=family, weights=compared_by, say=say)


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
        shown = last if k == len(targets) else step.run(edits[:k]).shown
        steps.append([1 - _share(shown, a, label) for a, label in targets[:k]])
    matrix, rebound = sequence_matrix(steps)
    rows = [[None if np.isnan(v) else float(v) for v in row] for row in matrix]
    return {"targets": [label for _, label in targets], "matrix": rows, "rebound": rebound.tolist()}


def _share(shown: Sequence[Shown], attribute: str, label: str) -> float:
    """The share of images of prompts with a label that show the label."""
    hits = [s.right(attribute) for s in shown if s.asked.get(attribute) == label]
    return sum(hits) / len(hits)


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
