"""The result of an evaluation: metrics of judged images, and of the same prompts and seeds of the untouched model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from excise.evaluation.comparison import damage_by_distance, drift_by_prompt
from excise.evaluation.eraseeval import eraseeval_metrics
from excise.evaluation.proof import concept_verdicts
from excise.evaluation.scoring import Metrics, Shown, as_document, became, compared, score, seen
from excise.evaluation.showing import evaluation_card, picture_rows
from excise.evaluation.sweep import beside, sweep
from excise.evaluation.verdict import ConceptVerdict, told
from excise.evaluation.verdicts import parts_of
from excise.families.base import Family
from excise.families.drawing import Images
from excise.judges import FEATURES
from excise.judges.features import Features
from excise.metrics.images import LEAST_FOR_KID, kid
from excise.metrics.unlearning import Seen, replacement_entropy
from excise.protocols import eraseeval, summary
from excise.protocols.base import Item, Protocol, Target, asks
from excise.protocols.concept import NAME, NO_JUDGE, SELECTIVE
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
        notes: where the protocol's prompts come from, and where it departs from its source.
        sweep: by a detector of exposed parts, the counts at each threshold (`excise.evaluation.sweep`).
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
    notes: dict[str, str] = {}
    sweep: dict[str, Any] | None = None
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
        verdict = "; ".join(line for line, _ in told(self.verdicts))
        if self.concepts and self.protocol_summary["judge"] == NO_JUDGE:
            verdict = "not verified: there is no judge, only pictures"
        return evaluation_card(protocol, self.model, self.concepts, self.metrics, self.untouched, self.seconds, verdict)

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


@dataclass(frozen=True)
class Round:
    """What one model drew of the items of a protocol.

    Attributes:
        shown: what the judges saw in each image. seconds: of drawing and judging.
    """

    images: Images
    shown: list[Shown]
    seconds: dict[str, float]


@dataclass(frozen=True)
class Inquiry:
    """What an evaluation asks.

    Attributes:
        items: what is drawn of the protocol. targets: that count as erased.
    """

    plan: Protocol
    items: Sequence[Item]
    targets: tuple[Target, ...]

    def measured(self, drawn: Round, **more: Any) -> Evaluated:
        """Return the metrics of what a model drew.

        Args:
            more: further fields of `Evaluation`.
        """
        counts = became(drawn.shown, self.targets)
        result = Evaluation(
            protocol=self.plan.name,
            hash=self.plan.hash,
            protocol_summary=summary(self.plan),
            notes=dict(self.plan.notes),
            concepts=[label for _, label in self.targets],
            metrics=as_document(score(self.plan.score, drawn.shown, self.targets)),
            became=counts,
            entropy={label: round(replacement_entropy(labels, label), 4) for label, labels in counts.items()},
            sweep=beside(sweep(drawn.shown, self.targets)),
            shown=drawn.shown,
            seconds=drawn.seconds,
            **more,
        )
        return Evaluated(result, drawn.images, self.targets)

    def beside(
        self,
        after: Evaluated,
        untouched: Round,
        *,
        family: Family | None = None,
        weights: Path | None = None,
        say: Report = silent,
    ) -> Evaluated:
        """Add the untouched model, which drew the same prompts and seeds, and the metrics that compare the two.

        Args:
            family: orders other names by their distance to a target; None leaves that out.
            weights: folder of the weights of the features by which sets of images are compared.
        """
        shown, old = untouched.shown, sweep(untouched.shown, self.targets)
        metrics = as_document(score(self.plan.score, shown, self.targets))
        before = Evaluated(
            after.result.model_copy(
                update={
                    "metrics": metrics,
                    "became": became(shown, self.targets),
                    "sweep": beside(old),
                    "shown": shown,
                    "seconds": untouched.seconds,
                }
            ),
            untouched.images,
            self.targets,
        )
        verdicts = concept_verdicts(shown, after.result.shown, self.targets)
        both = {**after.result.metrics, **as_document(self._compared(before, after, weights, say))}
        if self.plan.score == NAME and any(v.status == "not verifiable" for v in verdicts):
            both.pop("ua", None)  # nothing shows that what was never drawn has gone
        update = {
            "metrics": both,
            "untouched": metrics,
            "verdicts": verdicts,
            "sweep": beside(sweep(after.result.shown, self.targets), old),
            "neighbours": damage_by_distance(family, shown, after.result.shown, self.targets) if family else {},
            "seconds": {**after.result.seconds, "untouched": sum(untouched.seconds.values())},
        }
        return replace(after, result=after.result.model_copy(update=update), before=before)

    def _compared(self, before: Evaluated, after: Evaluated, weights: Path | None, say: Report) -> Metrics:
        """The metrics that compare two models; drift and KID are of the retained prompts."""
        metrics = compared(before.result.shown, after.result.shown, self.targets)
        others = [i for i, item in enumerate(self.items) if not asks(item.asked, self.targets)]
        rows = [i for i in others if self.items[i].target is None and self.items[i].group != SELECTIVE]
        of_eraseeval, enough = self.plan.name == eraseeval.NAME, len(rows) >= LEAST_FOR_KID
        features = (
            FEATURES.load(self.plan.features)(weights) if self.plan.features and (of_eraseeval or enough) else None
        )
        if len(rows) > 1:
            old, new = before.images.at(rows), after.images.at(rows)
            metrics["drift"] = drift_by_prompt(old, new, [self.items[i].prompt for i in rows])
            if features and enough:
                metrics["kid"] = kid(_in_parts(features, old, say, 0), _in_parts(features, new, say, 1))
        if features and of_eraseeval:
            embed = partial(_in_parts, features, say=say, number=0)
            old_side, new_side = ((side.result.shown, side.images) for side in (before, after))
            metrics |= eraseeval_metrics(old_side, new_side, embed)
        return metrics


def beside_earlier(after: Evaluated, before: Evaluated) -> Evaluated:
    """Add the verdicts on an evaluation beside an earlier one of the untouched model, by the pictures that both drew.

    Args:
        before: of the same protocol, for whichever targets, or a part of it.
    """
    old = {(s.prompt, s.seed): s for s in before.result.shown}
    both = [s for s in after.result.shown if (s.prompt, s.seed) in old]
    first = [old[s.prompt, s.seed] for s in both]
    update = {
        "metrics": {**after.result.metrics, **as_document(compared(first, both, after.targets))},
        "untouched": measure(before.result, after.targets),
        "verdicts": concept_verdicts(first, both, after.targets),
    }
    return replace(after, result=after.result.model_copy(update=update), before=before)


def measure(result: Evaluation, targets: Sequence[Target]) -> dict[str, dict[str, int | float]]:
    """Compute the metrics of a finished evaluation for other targets."""
    return as_document(score(result.protocol_summary["score"], result.shown, targets))


def _in_parts(features: Features, images: Images, say: Report, number: int) -> np.ndarray:
    """The features of images, part by part; `number` of 2 sets are done."""
    parts = []
    for rows in parts_of(len(images)):
        say("comparing images", number + rows.start / len(images), 2)
        parts.append(features(images.at(rows)))
    say("comparing images", number + 1, 2)
    return np.concatenate(parts)
