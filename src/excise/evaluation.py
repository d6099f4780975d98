"""Protocol -> images -> judge -> metrics, for a model with or without edits."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from excise.concept import Concept, as_concepts
from excise.drawing import BATCH, Images, Workers, draw
from excise.edit import Edit, as_family
from excise.errors import ModelError
from excise.families.base import Family, Progress
from excise.judges import JUDGES, Judge
from excise.metrics.unlearning import Seen
from excise.protocols import PROTOCOLS, summary
from excise.protocols.base import Item, Protocol, Target
from excise.scoring import Shown, as_document, became, score, seen

SCHEMA = 2


class Evaluation(BaseModel):
    """The result of one protocol on one model; `metrics` maps a name to value, low, high (95 %) and n."""

    model_config = ConfigDict(frozen=True)

    schema_version: int = SCHEMA
    protocol: str
    hash: str
    protocol_summary: dict[str, Any]
    model: str
    concepts: list[str]
    metrics: dict[str, dict[str, float]]
    became: dict[str, dict[str, int]]
    shown: list[Shown]
    seconds: dict[str, float]

    def seen(self, *groups: str) -> Seen:
        """Asked and seen labels of some groups, as the metrics take them."""
        return seen(self.shown, *groups)


@dataclass(frozen=True)
class Evaluated:
    """An evaluation with its images, in the order of `result.shown`."""

    result: Evaluation
    images: Images
    targets: tuple[Target, ...] = ()


def evaluate(
    model: Any,
    concepts: Sequence[str | Concept] = (),
    *,
    edits: Sequence[Edit] = (),
    protocol: str = "canvas-mini",
    groups: Sequence[str] | None = None,
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
    if judge is not None:
        plan = replace(plan, judge=judge.name, second=None)
    family = as_family(model)
    _check_size(plan, family)
    items = plan.select(targets, groups)
    requests = [(i.prompt, plan.seed(i)) for i in items]
    began = time.perf_counter()
    with ExitStack() as stack:
        for edit in edits:
            stack.enter_context(edit.apply(family, allow_other_base=allow_other_base))
        images = draw(
            family,
            requests,
            steps=plan.steps,
            guidance=plan.guidance,
            sampler=plan.sampler,
            batch=batch,
            cache=cache,
            workers=workers,
            progress=progress,
        )
    drawn = time.perf_counter()
    shown = judged(items, requests, images, judges)
    result = Evaluation(
        protocol=plan.name,
        hash=plan.hash,
        protocol_summary=summary(plan),
        model=model_name,
        concepts=names,
        metrics=as_document(score(plan.score, shown, targets)),
        became=became(shown, targets),
        shown=shown,
        seconds={"draw": round(drawn - began, 3), "judge": round(time.perf_counter() - drawn, 3)},
    )
    return Evaluated(result, images, targets)


def measure(result: Evaluation, targets: Sequence[Target]) -> dict[str, dict[str, float]]:
    """The metrics of a finished evaluation through the eyes of other targets."""
    return as_document(score(result.protocol_summary["score"], result.shown, targets))


def judged(
    items: Sequence[Item], requests: Sequence[tuple[str, int]], images: Images, judges: Sequence[Judge]
) -> list[Shown]:
    """What was asked for beside what one judge, or two, saw."""
    verdicts = [judge.verdicts(images) for judge in judges] if any(i.asked for i in items) else []
    by_image = [[{a: v[a][i] for a in v} for v in verdicts] for i in range(len(items))]
    return [
        Shown(
            group=item.group,
            prompt=item.prompt,
            seed=seed,
            asked=dict(item.asked),
            saw=views[0] if views else {},
            second=views[1] if len(views) > 1 else {},
            target=item.target,
        )
        for item, (_, seed), views in zip(items, requests, by_image, strict=True)
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
