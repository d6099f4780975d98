"""What the images of a protocol can prove at best, before any is drawn, and the verdict on each concept afterwards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from excise.evaluation.scoring import Metrics, Shown, compared, score
from excise.evaluation.verdict import ConceptVerdict, status_of
from excise.metrics.rates import Estimate, rate
from excise.metrics.unlearning import NONE
from excise.protocols.base import Protocol, Target, asks, parts
from excise.protocols.concept import RETAINED


def concept_verdicts(
    before: Sequence[Shown], after: Sequence[Shown], targets: Sequence[Target]
) -> list[ConceptVerdict]:
    """Return the verdict on each target, from the images whose prompts ask for it by its name.

    A target that no image asks for, or that no judge looked for, has none.

    Args:
        before, after: the same prompts and seeds, by the untouched model and with the edits.
    """
    verdicts = []
    for target in targets:
        own = parts(target).items()
        rows = [i for i, s in enumerate(after) if s.target is None and own <= s.asked.items() and s.saw]
        seen = [i for i in rows if own <= before[i].saw.items()]
        clean = rate([not own <= after[i].saw.items() for i in seen]) if seen else None
        if rows:
            document = clean.as_dict() if clean else None
            verdicts.append(
                ConceptVerdict(concept=target[1], status=status_of(clean), images=len(rows), clean=document)
            )
    return verdicts


def retained_estimate(before: Sequence[Shown], after: Sequence[Shown], attribute: str) -> Estimate | None:
    """Return the share of other names' images that were right before and still are; None where none was right."""
    rows = [i for i, s in enumerate(before) if s.group in RETAINED and s.asked and s.right(attribute)]
    return rate([after[i].right(attribute) for i in rows]) if rows else None


def best_metrics(plan: Protocol, targets: Sequence[Target], groups: Sequence[str] | None = None) -> Metrics:
    """Return the metrics if every image were as wished: the targets gone, all else as the prompt asks.

    Metrics that are no rates of labels (drift, KID, CLIP score) are left out.
    """
    if plan.score in ("captions", "sequence"):
        return {}
    items = plan.select(targets, groups)
    before = [_as_wished(i.group, i.prompt, i.asked, i.target, {}) for i in items]
    erased = {label: attribute for target in targets for attribute, label in parts(target).items()}
    after = [
        _as_wished(i.group, i.prompt, i.asked, i.target, erased if i.target or asks(i.asked, targets) else {})
        for i in items
    ]
    return {**score(plan.score, after, targets), **(compared(before, after, targets) if targets else {})}


def _as_wished(group: str, prompt: str, asked: Mapping[str, str], target: str | None, erased: dict[str, str]) -> Shown:
    """An image that shows what its prompt asks for, but for erased labels."""
    saw = {a: NONE if erased.get(label) == a else label for a, label in asked.items()}
    return Shown(group=group, prompt=prompt, seed=0, asked=dict(asked), saw=saw, target=target)
