"""A protocol fixes everything a number depends on but the model: prompts, seeds, sampler, judge. It has a hash."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from typing import Any

from excise.errors import ConceptError, ExciseError
from excise.support.digests import digest, seed_of

Target = tuple[str, str]
"""(attribute, label): what a concept is to a judge, for example ("object", "cat")."""


@dataclass(frozen=True)
class Item:
    """One image to make.

    Attributes:
        group: the part of the protocol it belongs to.
        prompt: its text.
        asked: what it should show, by attribute of the judge; empty where nothing is judged.
        index: its number among images of the same prompt.
        target: the label it is about where only an evaluation of that target draws it (aliases).
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
    """Prompts and sampler under a name.

    Attributes:
        items: everything the protocol may ask for, by group.
        steps, guidance: of the sampler.
        judge, second: names of the judge whose verdict counts and of the one that says where it is in doubt.
        score: the name of the metrics that its images yield (see `excise.evaluation.scoring`).
        labels: by attribute, the labels that may be targets.
        groups: what is drawn without targets. target_groups: what is drawn with targets.
        fixed_targets: the concepts a protocol erases always; empty where the user chooses.
        sampler: "model" for the scheduler that ships with the model, or "ddim".
        features: name of the feature space for distances between image sets; None where there is none.
        image_size: side of the pictures the judge was made for; None takes any.
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
        """Everything a number may depend on, by field.

        Fields at their default are left out, so that a later version may add some and old hashes stay.
        """
        values = asdict(self)
        defaults = {f.name: f.default_factory() if callable(f.default_factory) else f.default for f in fields(self)}
        return {k: v for k, v in values.items() if v != defaults[k]}

    @cached_property
    def hash(self) -> str:
        """SHA-256 over the content; two results may be compared only when it agrees."""
        return digest(self.content, escape=False)

    def seed(self, item: Item) -> int:
        """The seed of one image: fixed, or a function of (protocol, prompt, index) alone, so batches do not matter."""
        if item.seed is not None:
            return item.seed
        return seed_of(self.name, item.prompt, item.index)

    def select(self, targets: Sequence[Target], groups: Sequence[str] | None = None) -> list[Item]:
        """The items an evaluation draws, in order, each image once; those about other targets are left out.

        Raises:
            ConceptError: a group that the protocol does not have.
        """
        chosen = groups or (self.target_groups if targets else self.groups)
        known = dict.fromkeys(i.group for i in self.items)
        for group in chosen:
            if group not in known:
                raise ConceptError(f"{self.name} has no group '{group}'; it has: {', '.join(known)}.")
        labels = {label for _, label in targets}
        found = [i for i in self.items if i.group in chosen and (not labels or i.target is None or i.target in labels)]
        return list({(i.group, i.prompt, i.index, None if not labels else i.target): i for i in found}.values())

    def target_of(self, concept: str) -> Target:
        """What a concept is to the judge of this protocol.

        Raises:
            ConceptError: the protocol does not know it.
        """
        for attribute, labels in self.labels.items():
            if concept in labels:
                return attribute, concept
        known = "; ".join(
            f"{attribute}: {', '.join(list(labels)[:30])}{' ...' if len(labels) > 30 else ''}"
            for attribute, labels in self.labels.items()
        )
        raise ConceptError(
            f"{self.name} cannot judge '{concept}'; it knows {known or 'no concepts'}. Name one of these, take another "
            "--protocol (excise protocols), or look at pictures yourself (excise generate)."
        )

    def knows(self, concept: str) -> bool:
        """Whether its judge knows a concept."""
        return any(concept in labels for labels in self.labels.values())


def parts(target: Target) -> dict[str, str]:
    """What an image of the target shows, by attribute: one label, or both of a pair.

    >>> parts(("pair", "cat in neon style"))
    {'object': 'cat', 'style': 'neon'}
    """
    attribute, label = target
    if attribute != "pair":
        return {attribute: label}
    obj, style = label.removesuffix(" style").rsplit(" in ", 1)
    return {"object": obj, "style": style}


def asks(asked: Mapping[str, str], targets: Sequence[Target]) -> bool:
    """Whether an image that was asked to show `asked` is about one of the targets."""
    return any(parts(target).items() <= asked.items() for target in targets)


class IncomparableError(ExciseError):
    """Results of different protocols asked to stand in one table."""


def check_comparable(results: Sequence[Mapping[str, Any]]) -> None:
    """Refuse results whose protocol hashes differ, and say in which field they do.

    Args:
        results: mappings with `protocol`, `hash` and, where known, `protocol_summary`.

    Raises:
        IncomparableError: naming both protocols and what differs.
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
    """The protocol's fields with the items as counts by group and a hash: what an error or a report names."""
    content = {k: v for k, v in asdict(protocol).items() if k not in ("items", "labels", "notes")}
    counts: dict[str, int] = {}
    for item in protocol.items:
        counts[item.group] = counts.get(item.group, 0) + 1
    prompts = digest([asdict(i) for i in protocol.items], escape=False)[:12]
    return json.loads(json.dumps({**content, "items": counts, "prompts_and_seeds": prompts}))
