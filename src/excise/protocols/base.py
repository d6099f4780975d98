"""Evaluation protocols: prompts, seeds, sampler and judge under one hash, so that numbers can be compared."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from typing import Any

from excise.errors import ConceptError, ExciseError, closest
from excise.support.digests import digest, seed_of

Target = tuple[str, str]
"""(attribute, label) by which a judge knows a concept, for example ("object", "cat")."""


@dataclass(frozen=True)
class Item:
    """One image to draw.

    Attributes:
        group: the part of the protocol that it belongs to.
        prompt: text that it is drawn from.
        asked: the labels that it should show, by attribute of the judge; empty where nothing is judged.
        index: its number among the images of the same prompt.
        target: label of the only target for which it is drawn (aliases); None: it is drawn for every target.
        seed: fixed by the protocol; None derives it from protocol, prompt and index.
    """

    group: str
    prompt: str
    asked: Mapping[str, str]
    index: int = 0
    target: str | None = None
    seed: int | None = None


@dataclass(frozen=True)
class Protocol:
    """Everything that the numbers of an evaluation depend on, except the model.

    Attributes:
        name: of the protocol; derived seeds depend on it.
        items: all images that the protocol may draw.
        steps: of the sampler.
        guidance: scale of the classifier-free guidance.
        judge: name of the judge whose verdicts are the results.
        score: name of the function that turns verdicts into metrics (see `excise.evaluation.scoring`).
        labels: by attribute, the labels that may be targets.
        groups: the groups that are drawn when no target is given.
        target_groups: the groups that are drawn when targets are given.
        second: name of a second judge, which marks the images on which the two disagree.
        fixed_targets: concepts that are always the targets; empty where the user chooses.
        sampler: "model" for the scheduler that ships with the model, or "ddim".
        features: name of the feature space for distances between image sets; None where none is measured.
        image_size: width of the images that the judge was made for, in pixels; None for any.
        notes: where the protocol comes from and where it departs from its source.
    """

    name: str
    items: tuple[Item, ...]
    steps: int
    guidance: float
    judge: str
    score: str
    labels: Mapping[str, Sequence[str]]
    groups: tuple[str, ...]
    target_groups: tuple[str, ...]
    second: str | None = None
    fixed_targets: tuple[str, ...] = ()
    sampler: str = "model"
    features: str | None = None
    image_size: int | None = None
    notes: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def content(self) -> dict[str, Any]:
        """The fields that the hash covers.

        Fields at their default are left out, so that adding a field leaves the hashes of existing protocols alone.
        """
        values = asdict(self)
        defaults = {f.name: f.default_factory() if callable(f.default_factory) else f.default for f in fields(self)}
        return {k: v for k, v in values.items() if v != defaults[k]}

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the content (64 hex digits); results are comparable only if they share it."""
        return digest(self.content, escape=False)

    def seed(self, item: Item) -> int:
        """Return the seed of an image: fixed, or derived from (protocol, prompt, index), so batches do not matter."""
        if item.seed is not None:
            return item.seed
        return seed_of(self.name, item.prompt, item.index)

    def select(self, targets: Sequence[Target], groups: Sequence[str] | None = None) -> list[Item]:
        """Return the items that an evaluation draws, in order and each question once, without those of other targets.

        Args:
            targets: may be empty.
            groups: by default those that the protocol names for evaluations with, or without, targets.

        Raises:
            ConceptError: the protocol has no such group.
        """
        selected = groups or (self.target_groups if targets else self.groups)
        all_groups = dict.fromkeys(i.group for i in self.items)
        for group in selected:
            if group not in all_groups:
                raise ConceptError(f"{self.name} has no group '{group}'; it has: {', '.join(all_groups)}.")
        labels = {label for _, label in targets}
        items = [
            i for i in self.items if i.group in selected and (not labels or i.target is None or i.target in labels)
        ]

        def key(i: Item) -> tuple[object, ...]:
            return i.group, i.prompt, i.index, tuple(i.asked.items()), i.target if labels else None

        return list({key(i): i for i in items}.values())

    def target_of(self, concept: str) -> Target:
        """Return the attribute and label by which the judge of this protocol knows a concept.

        Raises:
            ConceptError: no label of the protocol has that name.
        """
        for attribute, labels in self.labels.items():
            if concept in labels:
                return attribute, concept
        concepts = "; ".join(
            f"{attribute}: {', '.join(list(labels)[:30])}{' ...' if len(labels) > 30 else ''}"
            for attribute, labels in self.labels.items()
        )
        near = closest(concept, [label for labels in self.labels.values() for label in labels])
        meant = f"Did you mean '{near}'? " if near else ""
        raise ConceptError(
            f"{self.name} cannot judge '{concept}'; it knows {concepts or 'no concepts'}. {meant}Name one of these, "
            "take another --protocol (excise protocols), or look at pictures yourself (excise generate)."
        )

    def knows(self, concept: str) -> bool:
        """Return whether `target_of` finds the concept."""
        return any(concept in labels for labels in self.labels.values())


def numbered(prompts: Iterable[str]) -> list[int]:
    """Return how often each prompt came before: the `index` of its item.

    >>> numbered(["a cat", "a dog", "a cat"])
    [0, 0, 1]
    """
    seen: Counter[str] = Counter()
    indices = []
    for prompt in prompts:
        indices.append(seen[prompt])
        seen[prompt] += 1
    return indices


def parts(target: Target) -> dict[str, str]:
    """Return the labels that an image of the target shows, by attribute: one, or two for a pair.

    >>> parts(("pair", "cat in neon style"))
    {'object': 'cat', 'style': 'neon'}
    """
    attribute, label = target
    if attribute != "pair":
        return {attribute: label}
    obj, style = label.removesuffix(" style").rsplit(" in ", 1)
    return {"object": obj, "style": style}


def asks(asked: Mapping[str, str], targets: Sequence[Target]) -> bool:
    """Return whether an image that should show the labels `asked` should show one of the targets."""
    return any(parts(target).items() <= asked.items() for target in targets)


class IncomparableError(ExciseError):
    """Results of different protocols were to be compared."""


def check_comparable(results: Sequence[Mapping[str, Any]]) -> None:
    """Refuse results whose protocol hashes differ.

    Args:
        results: mappings with `protocol`, `hash` and, optionally, `protocol_summary`.

    Raises:
        IncomparableError: hashes differ; the message names both protocols and the fields that differ.
    """
    first = results[0]
    for other in results[1:]:
        if other["hash"] == first["hash"]:
            continue
        a, b = first.get("protocol_summary") or {}, other.get("protocol_summary") or {}
        differs = [f"{k}: {a.get(k)!r} and {b.get(k)!r}" for k in sorted({*a, *b}) if a.get(k) != b.get(k)]
        raise IncomparableError(
            f"these results are of different protocols, {first['protocol']} ({first['hash'][:12]}) and "
            f"{other['protocol']} ({other['hash'][:12]}); they differ in "
            f"{'; '.join(differs) or 'prompts or seeds'}. Compare runs of one protocol hash only."
        )


def summary(protocol: Protocol) -> dict[str, Any]:
    """Return the protocol's fields as JSON for reports and messages, the items as counts by group and one digest."""
    content = {k: v for k, v in asdict(protocol).items() if k not in ("items", "labels", "notes")}
    counts: dict[str, int] = {}
    for item in protocol.items:
        counts[item.group] = counts.get(item.group, 0) + 1
    prompts = digest([asdict(i) for i in protocol.items], escape=False)[:12]
    return json.loads(json.dumps({**content, "items": counts, "prompts_and_seeds": prompts}))
