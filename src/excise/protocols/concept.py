"""Protocol `concept`: is a concept of the user's gone from a model of the user's, and are other names still drawn?

Unlike the other protocols it is made for a request: prompts of the concepts' kinds that no method sees, their synonyms,
the names nearest to them, and the names to retain. Policies are verified by it as well.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from excise.concepts.concept import Concept, normalise_name
from excise.concepts.vocabulary import Vocabulary, ordinary_names, vocabulary_of
from excise.errors import ConceptError
from excise.families.base import Family
from excise.families.text_space import nearest_first
from excise.protocols.base import Item, Protocol
from excise.support.digests import seed_of
from excise.support.selection import evenly

NAME = "concept"
ATTRIBUTE = "concept"
NO_JUDGE = "none"
NEAREST = 12  # names next to the concepts
OTHERS = 36  # names besides the concepts, where the vocabulary has as many
MOST_OTHERS = 60
PICTURES = 10  # of each concept
MOST_EACH = 8  # pictures of one other name
NEAR = ("near", "hard", "pinpoint")  # groups of the names nearest to a concept, by protocol
RETAINED = (*NEAR, "random", "captions", "retained")
IN_OTHER_WORDS = {
    "synonyms": "synonym_rate", "variant": "synonym_rate", "own": "own_rate", "prefix": "prefix_rate",
    "short": "short_rate", "long": "long_rate", "spanish": "spanish_rate", "french": "french_rate",
    "german": "german_rate", "italian": "italian_rate", "portuguese": "portuguese_rate", "attack": "attack_rate",
    "implicit": "implicit_rate",
}  # fmt: skip
"""Groups that ask for a concept in other words than its test prompts, with the metric of each."""
SELECTIVE = "selective"  # asks for a concept, and is judged by another thing that should be visible
GROUPS = ("target", *RETAINED, *IN_OTHER_WORDS, SELECTIVE)


@dataclass(frozen=True)
class Questions:
    """What is asked about some concepts.

    Attributes:
        concepts: the erased ones.
        preserve: names to retain.
        vocabulary: gives prompts and further names; "auto" as for `excise.erase`.
        own: prompts of the user's that ask for a concept.
        pictures: pictures of each concept; None for the protocol's own number.
        others: fewest pictures of other names.
    """

    concepts: Sequence[Concept]
    preserve: Sequence[str] = ()
    vocabulary: str | None = "auto"
    own: Sequence[str] = ()
    pictures: int | None = None
    others: int = OTHERS


def concept_protocol(questions: Questions, family: Family, steps: int, guidance: float, judge: str) -> Protocol:
    """Return the protocol for some concepts on a model.

    Groups: `target` (the prompts of a concept), `near` (the nearest names), `retained` (names to retain and others),
    `synonyms`, `own` (prompts of the user's).

    Args:
        steps, guidance: of the sampler.
        judge: name of the judge; `NO_JUDGE` asks for pictures alone.

    Raises:
        ConceptError: a prompt of the user's names none of several concepts.
    """
    concepts = questions.concepts
    vocabulary = vocabulary_of(questions.vocabulary, family, concepts)
    near, others = other_names(questions, vocabulary, family)
    each = min(MOST_EACH, math.ceil(questions.others / max(1, len(near) + len(others))))
    kind = concepts[0].kind if concepts else "object"
    items: list[Item] = []
    for c in concepts:
        asking = cycled(vocabulary.checks(c), questions.pictures or PICTURES)
        items += [_item("target", c.name, p, i) for i, p in asking]
        in_other_words = [vocabulary.checks(replace(c, name=s))[0] for s in c.synonyms]
        items += [replace(_item("synonyms", c.name, p, 0), target=c.name) for p in in_other_words]
    for group, names in (("near", near), ("retained", others)):
        for n in names:
            items += [_item(group, n, p, i) for i, p in cycled(_checks_of(vocabulary, n, kind), each)]
    items += [replace(_item("own", name, p, 0), target=name) for p in questions.own for name in [_named(p, concepts)]]
    notes = {"prompts": "of the concepts' kinds; no method and no choice of a strength sees them"}
    return made(NAME, items, concepts, (steps, guidance, judge), notes, [*near, *others])


def made(
    name: str,
    items: Sequence[Item],
    concepts: Sequence[Concept],
    drawn: tuple[int, float, str],
    notes: Mapping[str, str],
    rivals: Sequence[str] | None = None,
) -> Protocol:
    """Return a protocol that is made for a request, of which every group is drawn.

    Args:
        drawn: steps and guidance of the sampler, and the judge's name; `NO_JUDGE` asks for pictures alone.
        rivals: names among which a zero-shot judge chooses, besides the concepts; None takes those that are asked for.
    """
    steps, guidance, judge = drawn
    if judge == NO_JUDGE:
        items = [replace(i, asked={}, target=i.asked[ATTRIBUTE] if i.group == "target" else i.target) for i in items]
    names = tuple(c.name for c in concepts)
    if rivals is None:
        asked = dict.fromkeys(i.asked[ATTRIBUTE] for i in items if ATTRIBUTE in i.asked)
        rivals = [name for name in asked if name not in names]
    groups = tuple(dict.fromkeys(i.group for i in items))
    return Protocol(
        name=name,
        items=tuple(items),
        steps=steps,
        guidance=guidance,
        judge=judge,
        score=NAME,
        labels={ATTRIBUTE: (*names, *rivals)},
        groups=groups,
        target_groups=groups,
        fixed_targets=names,
        notes=notes,
    )


def other_names(questions: Questions, vocabulary: Vocabulary, family: Family) -> tuple[list[str], list[str]]:
    """Return the names nearest to the concepts, and the names to retain with evenly chosen further ones."""
    concepts = questions.concepts
    listed = evenly(vocabulary.others(concepts, questions.preserve), MOST_OTHERS)
    ordinary = [n for kind in dict.fromkeys(c.kind for c in concepts) for n in ordinary_names(kind, concepts)]
    has_siblings = any(vocabulary.siblings(c) for c in concepts)
    candidates = listed if has_siblings else [n for n in dict.fromkeys(ordinary) if n not in listed]
    near = nearest_first(family, [c.name for c in concepts], candidates)[:NEAREST] if concepts else []
    rest = [n for n in listed if n not in near]
    if not has_siblings:
        further = [n for n in candidates if n not in near]
        rest += evenly(further, max(0, OTHERS - len(near) - len(rest)))
    return near, rest


def _checks_of(vocabulary: Vocabulary, name: str, kind: str) -> Sequence[str]:
    """The prompts of a name to retain; where the concepts are explicit, none that speaks of bodies."""
    return vocabulary.checks(Concept(name, "object" if kind == "explicit" else kind))


def _item(group: str, name: str, prompt: str, index: int) -> Item:
    # The seed depends on the prompt and index alone, so a cached picture stays valid when other names join.
    return Item(group, prompt, {ATTRIBUTE: name}, index, seed=seed_of("verify", prompt, index))


def cycled(prompts: Sequence[str], count: int) -> list[tuple[int, str]]:
    """Return `count` prompts with their numbers, from the first again where they are fewer.

    >>> cycled(["a cat", "the cat"], 3)
    [(0, 'a cat'), (1, 'the cat'), (2, 'a cat')]
    """
    return [(i, prompts[i % len(prompts)]) for i in range(count)]


def _named(prompt: str, concepts: Sequence[Concept]) -> str:
    """The concept that a prompt of the user's asks for: the only one, or the one that it names."""
    text = f" {normalise_name(prompt)} "
    hits = [c.name for c in concepts if any(normalise_name(w) in text for w in c.words)]
    if len(concepts) == 1 or len(hits) == 1:
        return hits[0] if hits else concepts[0].name
    raise ConceptError(
        f"the prompt '{prompt}' names {'none' if not hits else 'more than one'} of the concepts; evaluate one concept "
        "at a time, or write its name in the prompt."
    )
