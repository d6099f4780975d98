"""Vocabularies: prompts to retain, contexts of targets and names of their level, which a request itself does not give.

A vocabulary is an entry of `VOCABULARIES`, loaded when it is first used; other packages add theirs through the entry
points `excise.vocabularies`. The built-in models have their own. For all other models there is a list of ordinary names
for each kind of concept, one file each in `ordinary/`: common things, artists out of copyright, characters in the
public domain, given names.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from excise.concepts.concept import (
    CHECKS,
    TEMPLATES,
    Concept,
    fill,
    normalise_name,
    read_names,
    retain_prompts,
)
from excise.errors import unknown
from excise.families.built_in import is_built_in
from excise.registry import Record, Registry

if TYPE_CHECKING:
    from excise.families.base import Family

ORDINARY = "ordinary"
OF_BUILT_IN_MODELS = "canvas"
VOCABULARIES = Registry(
    "vocabulary",
    "excise.vocabularies",
    {
        "canvas": Record("excise.canvas.vocabulary:ALL_NAMES", "names of the built-in models"),
        "canvas-strict": Record("excise.canvas.vocabulary:ALIASES_ONLY", "the same by aliases, not by protocol names"),
        ORDINARY: Record("excise.concepts.vocabulary:OrdinaryNames", "ordinary names of each kind of concept"),
    },
    contract="excise.concepts.contract:VOCABULARY",
)
"""Each entry's object, when called, returns a `VocabularySource`."""
LISTS = Path(__file__).parent / "ordinary"
# Templates of ordinary names: those of their kind, except where these would describe a person's state.
RETAIN_TEMPLATES = {**TEMPLATES, "explicit": ("{}", "a photo of {}", "a painting of {}")}


@dataclass(frozen=True)
class Vocabulary:
    """What a vocabulary says about one request.

    Attributes:
        name: of the vocabulary, as the record of an edit has it; None for an empty one.
        prompts: to retain; none of them speaks of a target.
        templates: by kind of concept, the prompts ("{}" is the target) in which a target is erased.
        anchors: by target, an anchor where the empty one will not do.
        siblings: names of a target's own level.
        probes: from a target and its siblings by distance, prompts to monitor training by: the prompt, the name that
            its picture should show, its role ("target", "related", "unrelated"), and a second name to see, or "".
        calibration: prompts for choosing the strength of a method.
        checks: prompts for verifying an erasure, which no method sees.
    """

    name: str | None
    prompts: list[str]
    templates: Mapping[str, Sequence[str]]
    anchors: Mapping[str, str] = field(default_factory=dict)
    siblings: Callable[[Concept], Sequence[str]] = lambda concept: ()
    probes: Callable[[str, Sequence[str]], Sequence[tuple[str, str, str, str]]] = lambda target, others: ()
    calibration: Callable[[Concept], Sequence[str]] = lambda concept: fill(TEMPLATES[concept.kind], concept.name)
    checks: Callable[[Concept], Sequence[str]] = lambda concept: fill(CHECKS[concept.kind], concept.name)

    def others(self, concepts: Sequence[Concept], retained: Sequence[str]) -> list[str]:
        """Names to retain and siblings of the concepts, without the concepts' own words."""
        targets = {normalise_name(word) for c in concepts for word in c.words}
        names = [*retained, *(sibling for c in concepts for sibling in self.siblings(c))]
        return [name for name in dict.fromkeys(names) if normalise_name(name) not in targets]


class VocabularySource(ABC):
    """A vocabulary before any request. Derive from it and register it in `VOCABULARIES` to add one.

    Attributes:
        anchors: by target, an anchor where the empty one will not do, as in the `Vocabulary` that it returns.
    """

    anchors: ClassVar[Mapping[str, str]] = {}

    @abstractmethod
    def vocabulary(self, concepts: Sequence[Concept], family: Family, bare: bool) -> Vocabulary:
        """Return what the vocabulary says about a request.

        Args:
            concepts: the targets, with their anchors where these are known.
            family: the model, whose tokenizers limit prompts.
            bare: return names to retain by themselves, not in templates, if the vocabulary has names of that sort.
        """

    def kind_of(self, name: str) -> str | None:
        """Return the kind of concept that a name means in this vocabulary; None where it has no such name."""
        return None

    def checks(self, concept: Concept) -> list[str]:
        """Return the prompts by which an erasure is verified; no method sees them."""
        return fill(CHECKS[concept.kind], concept.name)


class OrdinaryNames(VocabularySource):
    """Ordinary names of the kinds that are erased."""

    def vocabulary(self, concepts: Sequence[Concept], family: Family, bare: bool) -> Vocabulary:
        return Vocabulary(ORDINARY, _fitting(ordinary_prompts(concepts, bare), family), TEMPLATES)


def vocabulary_of(name: str | None, family: Family, concepts: Sequence[Concept], *, bare: bool = False) -> Vocabulary:
    """Return what a vocabulary says about some targets.

    Args:
        name: of the vocabulary; "auto" means the one of the built-in models for these and "ordinary" for all others;
            None or "none" means an empty one.
        family: the model.
        concepts: the targets, with their anchors where these are known.
        bare: ordinary names stand by themselves, not in templates.

    Raises:
        UnknownNameError: there is no vocabulary of that name.
    """
    built_in = is_built_in(family)
    name = chosen_vocabulary(name, built_in)
    if name is None:
        return Vocabulary(None, [], TEMPLATES, checks=partial(check_prompts, built_in=built_in))
    chosen = _source(name).vocabulary(concepts, family, bare)
    return replace(chosen, checks=partial(check_prompts, built_in=True)) if built_in and name == ORDINARY else chosen


def check_prompts(concept: Concept, built_in: bool) -> list[str]:
    """Return the prompts by which evaluations, policies and attacks ask a model whether it draws a concept.

    They depend on the model and not on what a request keeps: a built-in model is asked in wordings that it draws. A
    vocabulary of another package brings its own to evaluations and policies.

    Args:
        built_in: whether the model is a built-in one.
    """
    return _source(OF_BUILT_IN_MODELS if built_in else ORDINARY).checks(concept)


def chosen_vocabulary(name: str | None, built_in: bool) -> str | None:
    """Return the name of the vocabulary that a request gets, or None for none; `vocabulary_of` explains the names.

    Args:
        built_in: whether the model is a built-in one.
    """
    if name == "auto":
        return OF_BUILT_IN_MODELS if built_in else ORDINARY
    return None if name == "none" else name


def anchors_in(name: str | None, built_in: bool) -> Mapping[str, str]:
    """Return the anchors that a vocabulary has for single targets; the arguments are those of `chosen_vocabulary`.

    Raises:
        UnknownNameError: there is no vocabulary of that name.
    """
    chosen = chosen_vocabulary(name, built_in)
    return {} if chosen is None else _source(chosen).anchors


def naming_vocabulary(name: str | None, family: Family) -> str | None:
    """Return the vocabulary in which the names of a request to a model are meant; see `naming_vocabulary_for`."""
    return naming_vocabulary_for(name, is_built_in(family))


def naming_vocabulary_for(name: str | None, built_in: bool) -> str | None:
    """Return the vocabulary in which the names of a request are meant, or None where they are plain words.

    It is the requested vocabulary, unless that consists of plain words, and the built-in models' own on these.
    """
    if name is not None and name != ORDINARY and name in VOCABULARIES:
        return name
    return OF_BUILT_IN_MODELS if built_in else None


def guess_kind(concept: Concept, kind: str | None, vocabulary: str | None) -> Concept:
    """Give a concept that has nothing but a name the kind that this name has in a vocabulary.

    Args:
        concept: returned as it is where it has more than a name.
        kind: as the caller gave it; with one, nothing is guessed.
        vocabulary: name of the vocabulary in which names are meant (`naming_vocabulary`), or None.
    """
    if vocabulary is None or kind is not None or concept != Concept(concept.name):
        return concept
    return Concept(concept.name, _source(vocabulary).kind_of(concept.name) or concept.kind)


def kind_in(concept: Concept, kind: str | None, vocabulary: str | None, built_in: bool) -> str:
    """Return the kind that a concept of a request has in the end (`guess_kind`), by the vocabulary that was asked for.

    Args:
        built_in: whether the model is one of the built-in ones.
    """
    return guess_kind(concept, kind, naming_vocabulary_for(vocabulary, built_in)).kind


def _source(name: str | None) -> VocabularySource:
    """The source of a vocabulary.

    Raises:
        UnknownNameError: there is none of that name.
    """
    if name is None or name not in VOCABULARIES:
        VOCABULARIES.refuse_broken(str(name))
        raise unknown("vocabulary", str(name), ["auto", "none", *VOCABULARIES])
    source: VocabularySource = VOCABULARIES.load(name)()
    return source


def ordinary_prompts(concepts: Sequence[Concept], bare: bool = False) -> list[str]:
    """Return the ordinary names of the concepts' kinds, in templates or bare; no prompt speaks of a concept."""
    prompts = [
        prompt
        for kind in dict.fromkeys(c.kind for c in concepts)
        for prompt in retain_prompts(ordinary_names(kind, concepts), ("{}",) if bare else RETAIN_TEMPLATES[kind])
    ]
    return [prompt for prompt in prompts if not any(_contains(prompt, word) for word in _target_words(concepts))]


def ordinary_names(kind: str, concepts: Sequence[Concept]) -> list[str]:
    """Return the ordinary names of a kind, without those that contain a concept's word or its anchor.

    Except among objects, names that a concept's word contains are left out too: to erase Emma Thompson may mean not to
    retain Emma, but a dog is no part of a hot dog.
    """
    words = _target_words(concepts)
    whole_words = [] if kind == "object" else words
    names = [n for n in _names_in_list(kind) if not any(_contains(word, n) for word in whole_words)]
    return [n for n in names if not any(_contains(n, word) for word in words)]


@cache
def _names_in_list(kind: str) -> tuple[str, ...]:
    """The ordinary names of a kind, from its file."""
    return tuple(read_names(LISTS / f"{kind}.txt"))


def _target_words(concepts: Sequence[Concept]) -> list[str]:
    """Names, synonyms and anchors of concepts."""
    return [w for c in concepts for w in (*c.words, c.anchor or "") if w]


def _contains(text: str, words: str) -> bool:
    """Whether a text contains some words as whole words, in singular or plural."""
    return f" {_stems(words)} " in f" {_stems(text)} "


@cache
def _stems(text: str) -> str:
    """A text in small letters, its words without punctuation and without a final s."""
    return " ".join(w[:-1] if w.endswith("s") else w for w in re.findall(r"\w+", normalise_name(text)))


def _fitting(prompts: Sequence[str], family: Family) -> list[str]:
    """The prompts that fit into the model, by the tokenizers that are loaded."""
    tokenizers = list(family.tokenizers.values())
    return [p for p in prompts if all(len(t(p, verbose=False).input_ids) <= family.max_tokens for t in tokenizers)]
