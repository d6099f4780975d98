"""What is known beside a request: prompts to keep, contexts of targets, names of their level.

The built-in models have their own. For all others there is a list of ordinary names for each kind of concept, one file
each in `ordinary/`: common things, artists out of copyright, characters in the public domain, given names.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path

from excise.concepts.concept import (
    CHECKS,
    TEMPLATES,
    Concept,
    fill,
    read_names,
    retain_prompts,
    same,
)
from excise.errors import unknown
from excise.families.base import Family
from excise.families.built_in import is_built_in

CANVAS = ("canvas", "canvas-strict")
ORDINARY = "ordinary"
LISTS = Path(__file__).parent / "ordinary"
# Prompts in which ordinary names are kept: their kind's, but what is no word for a person's state is kept as it is.
KEPT_IN = {**TEMPLATES, "explicit": ("{}", "a photo of {}", "a painting of {}")}


@dataclass(frozen=True)
class Vocabulary:
    """What is known beside the request: prompts to keep, contexts of targets, anchors where "" will not do.

    `siblings` are names of each target's own level, `probes` prompts to watch it by, given its siblings by distance,
    `calibration` prompts to choose a method's strength by, `checks` prompts to verify it by afterwards.
    """

    name: str | None
    prompts: list[str]
    templates: Mapping[str, Sequence[str]]
    anchors: Mapping[str, str] = field(default_factory=dict)
    siblings: Callable[[Concept], Sequence[str]] = lambda concept: ()
    probes: Callable[[str, Sequence[str]], Sequence[tuple[str, str, str, str]]] = lambda target, others: ()
    calibration: Callable[[Concept], Sequence[str]] = lambda concept: fill(TEMPLATES[concept.kind], concept.name)
    checks: Callable[[Concept], Sequence[str]] = lambda concept: fill(CHECKS[concept.kind], concept.name)

    def others(self, concepts: Sequence[Concept], kept: Sequence[str]) -> list[str]:
        """Names to keep and siblings of the concepts, those themselves left out."""
        gone = {same(w) for c in concepts for w in c.words}
        found = [*kept, *(s for c in concepts for s in self.siblings(c))]
        return [name for name in dict.fromkeys(found) if same(name) not in gone]


def vocabulary_of(name: str | None, family: Family, concepts: Sequence[Concept], *, bare: bool = False) -> Vocabulary:
    """The vocabulary of that name, without anything that speaks of the targets.

    Args:
        name: "auto" for the model's own, on other models than the built-in ones "ordinary"; None or "none" for none.
        concepts: the targets, with their anchors where they are known.
        bare: ordinary names stand by themselves, not in prompts.

    Raises:
        UnknownNameError: there is none of that name.
    """
    if name == "auto":
        name = CANVAS[0] if is_built_in(family) else ORDINARY
    if name in (None, "none"):
        return Vocabulary(None, [], TEMPLATES)
    if name == ORDINARY:
        return Vocabulary(ORDINARY, _fitting(ordinary_prompts(concepts, bare), family), TEMPLATES)
    if name not in CANVAS:
        raise unknown("vocabulary", name, ["auto", "none", ORDINARY, *CANVAS])
    from excise.canvas import vocabulary as canvas

    strict = name == "canvas-strict"
    templates = {kind: canvas.contexts(kind, strict) for kind in TEMPLATES}
    return Vocabulary(
        name,
        canvas.prompts([w for c in concepts for w in c.words], strict),
        templates,
        canvas.ANCHORS,
        lambda concept: canvas.siblings(concept.name),
        partial(canvas.probes, strict=strict),
        lambda concept: canvas.calibration(concept.name),
        lambda concept: canvas.checks(concept.name),
    )


def speaks_canvas(name: str | None, family: Family) -> bool:
    """Whether names are meant as Canvas has them: on a built-in model, and where its vocabulary is asked for."""
    return name in CANVAS or is_built_in(family)


def ordinary_prompts(concepts: Sequence[Concept], bare: bool = False) -> list[str]:
    """The ordinary names of the concepts' kinds, in their templates or bare; no prompt speaks of a concept."""
    found = [
        prompt
        for kind in dict.fromkeys(c.kind for c in concepts)
        for prompt in retain_prompts(ordinary_names(kind, concepts), ("{}",) if bare else KEPT_IN[kind])
    ]
    return [prompt for prompt in found if not any(_within(word, prompt) for word in _said(concepts))]


def ordinary_names(kind: str, concepts: Sequence[Concept]) -> list[str]:
    """The ordinary names of a kind, without those that hold a concept's word or its anchor.

    Nor, but for objects, those that a concept's word holds: whoever erases Emma Thompson may not want Emma kept, but a
    dog is no part of a hot dog.
    """
    words = _said(concepts)
    holding = [] if kind == "object" else words
    left = [n for n in _listed(kind) if not any(_within(n, w) for w in holding)]
    return [n for n in left if not any(_within(w, n) for w in words)]


@cache
def _listed(kind: str) -> tuple[str, ...]:
    return tuple(read_names(LISTS / f"{kind}.txt"))


def _said(concepts: Sequence[Concept]) -> list[str]:
    """What the concepts are called and read as."""
    return [w for c in concepts for w in (*c.words, c.anchor or "") if w]


def _within(words: str, text: str) -> bool:
    """Whether a text holds some words, in whatever number they are."""
    return f" {_bare(words)} " in f" {_bare(text)} "


@cache
def _bare(text: str) -> str:
    """A text in small letters, its words without marks and without the s of a plural."""
    return " ".join(w[:-1] if w.endswith("s") else w for w in re.findall(r"\w+", same(text)))


def _fitting(prompts: Sequence[str], family: Family) -> list[str]:
    """The prompts that the model can hold, as far as its tokenizers tell."""
    readers = list(family.tokenizers.values())
    return [p for p in prompts if all(len(t(p, verbose=False).input_ids) <= family.max_tokens for t in readers)]


def guess_kind(concept: Concept, kind: str | None, canvas: bool) -> Concept:
    """A Canvas style given by its name alone is a style, a Canvas object in a style an instance of both.

    Args:
        canvas: whether the model is of Canvas; elsewhere its names mean nothing.
    """
    from excise.canvas import world

    if not canvas or kind is not None or concept != Concept(concept.name):
        return concept
    if concept.name in world.STYLES:
        return Concept(concept.name, "style")
    return Concept(concept.name, "instance") if world.pair(concept.name) else concept
