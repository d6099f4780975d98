"""Protocol `hub`: the tasks of the Holistic Unlearning Benchmark for its 33 concepts, from a local copy of its prompts.

HUB: Moon et al., "Holistic Unlearning Benchmark: A Multi-Faceted Evaluation for Text-to-Image Diffusion Model
Unlearning", ICCV 2025, arXiv 2410.05664.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from excise.concepts.concept import Concept
from excise.concepts.vocabulary import vocabulary_of
from excise.errors import ConceptError
from excise.families.base import Family
from excise.families.built_in import is_built_in
from excise.protocols.base import Item, Protocol, numbered
from excise.protocols.concept import ATTRIBUTE, SELECTIVE, Questions, made, other_names
from excise.protocols.published import json_of, named_folder, one_line, prompts_in, rows_of, text_of
from excise.support.spelling import same_name

NAME = "hub"
FOLDER = "EXCISE_HUB"
FROM = "https://github.com/ml-postech/HUB, folder prompts"
STEPS, GUIDANCE = 50, 7.5
LANGUAGES = ("Spanish", "French", "German", "Italian", "Portuguese")
NOUNS, EACH_NOUN = 100, 10  # nouns nearest to a concept, and images of each


def hub_protocol(questions: Questions, family: Family, steps: int, guidance: float, judge: str) -> Protocol:
    """Return the tasks for some concepts, a group each.

    Groups: `target` (target proportion), `pinpoint` (the nouns nearest to a concept), one for each of five languages,
    `attack` (attack robustness), and `selective` (selective alignment), which is drawn only where it is named, as its
    judge must tell whether a thing is visible beside others.

    Args:
        questions: its `pictures` is the most images of a task for a concept, the first ones, as in the benchmark's
            smoke test; None for all.
        steps, guidance: of the sampler of a built-in model; others take the benchmark's.
        judge: name of the judge, or `NO_JUDGE`.

    Raises:
        ConceptError: the folder is not named or not HUB's, it lacks a concept, or a file cannot be read.
    """
    root, words = _root(), [word for c in questions.concepts for word in c.words]
    tasks = {c.name: _tasks(root, c, words, questions.pictures) for c in questions.concepts}
    items = [item for of_concept in tasks.values() for task in of_concept.values() for item in task]
    missing = [f"{task} of {name}" for name, of_concept in tasks.items() for task, its in of_concept.items() if not its]
    if not is_built_in(family):
        steps, guidance = STEPS, GUIDANCE
    notes = {
        "prompts": f"{FROM}; seeds are derived, the benchmark seeds once per run",
        "pinpoint": f"the first {NOUNS} nouns, {EACH_NOUN} images each; blanks in place of the underscores of WordNet, "
        "which the benchmark leaves in its prompts",
        "selective": "nouns that repeat, or name the concept itself, are left out",
        "judges": "the benchmark's are the GIPHY detector, InternVL2.5-8B-MPO with reference images, and Q16",
    }
    if missing:
        notes["missing"] = f"no file of {', '.join(missing)}"
    near, others = other_names(questions, vocabulary_of(questions.vocabulary, family, questions.concepts), family)
    # What a judge chooses among is no noun of the benchmark: those stand too near to one another.
    plan = made(NAME, items, questions.concepts, (steps, guidance, judge), notes, [*near, *others])
    usual = tuple(g for g in plan.groups if g != SELECTIVE)
    return replace(plan, groups=usual, target_groups=usual)


def _root() -> Path:
    """The folder of prompts.

    Raises:
        ConceptError: none is named, or it holds no tasks.
    """
    given = named_folder(
        FOLDER,
        f"hub reads prompts from a folder, and {FOLDER} names none; it is a copy of {FROM}. Set it, for example: "
        f"export {FOLDER}=~/HUB/prompts",
    )
    root = given / "prompts" if (given / "prompts").is_dir() else given
    if not (root / "target_image").is_dir():
        raise ConceptError(f"{FOLDER} is {given}, which holds no folder target_image; expected a copy of {FROM}.")
    return root


def _tasks(root: Path, concept: Concept, words: Sequence[str], most: int | None) -> dict[str, list[Item]]:
    """The images of each task of a concept, by group.

    Args:
        words: of all concepts, which are no other things.

    Raises:
        ConceptError: the folder has no prompts for the concept.
    """
    file = partial(_file, root, concept)
    target = file("target_image", "csv")
    prompts = _lines(target)
    if not prompts:
        known = sorted(p.stem for p in (root / "target_image").glob("*.csv"))
        raise ConceptError(
            f"HUB has no prompts for '{concept.name}' in {root}; it has {', '.join(known[:40]) or 'none'}. Name one of "
            "these, or ask your own questions with --protocol concept or emma."
        )
    languages = file("multilingual_robustness", "csv")
    rows = rows_of(languages, LANGUAGES, FROM) if languages else []
    nouns = _nouns(file("pinpoint_ness", "csv"), words)
    tasks = {
        "target": _asking("target", prompts, concept, in_other_words=False),
        "pinpoint": [Item("pinpoint", f"a photo of {n}", {ATTRIBUTE: n}, i) for n in nouns for i in range(EACH_NOUN)],
        **{lang.lower(): _asking(lang.lower(), [row[lang] for row in rows], concept) for lang in LANGUAGES},
        "attack": _asking("attack", _lines(file("attack_robustness", "csv")), concept),
        SELECTIVE: _visible(file("selective_alignment", "json"), words),
    }
    return {group: items[:most] for group, items in tasks.items()}


def _asking(group: str, prompts: Sequence[str], concept: Concept, in_other_words: bool = True) -> list[Item]:
    about = concept.name if in_other_words else None
    return [
        Item(group, prompt, {ATTRIBUTE: concept.name}, index, about)
        for prompt, index in zip(prompts, numbered(prompts), strict=True)
    ]


def _file(root: Path, concept: Concept, task: str, ending: str) -> Path | None:
    """A task's file of a concept, however the two are spelled: one of the benchmark's has an underscore for a blank."""
    names = sorted((root / task).glob(f"*.{ending}"))
    return next((p for word in concept.words for p in names if same_name(p.stem, word)), None)


def _lines(file: Path | None) -> list[str]:
    """Prompts one a line, without a header and without the quotes around a line."""
    lines = [one_line(line) for line in text_of(file).splitlines()] if file else []
    plain = [x[1:-1].replace('""', '"') if len(x) > 1 and x[0] == x[-1] == '"' else x for x in lines]
    return [line for line in plain if line.strip('" ')]


def _nouns(file: Path | None, words: Sequence[str]) -> list[str]:
    """The nouns nearest to a concept, nearest first, without the concepts themselves."""
    rows = rows_of(file, ["noun"], FROM) if file else []
    nouns = dict.fromkeys(row["noun"].replace("_", " ") for row in rows[:NOUNS])
    return [n for n in nouns if not any(same_name(n, word) for word in words)]


def _visible(file: Path | None, words: Sequence[str]) -> list[Item]:
    """Prompts that ask for a concept, each with a thing besides it that should be visible.

    Raises:
        ConceptError: the file is no list of prompts with nouns.
    """
    expected = "a JSON list of objects with a text `prompt` and a list of texts `nouns`"
    entries = json_of(file, expected) if file else []
    items = []
    for entry in entries if isinstance(entries, list) else [None]:
        prompt = one_line(entry.get("prompt")) if isinstance(entry, dict) else ""
        nouns = prompts_in(entry.get("nouns")) if isinstance(entry, dict) else None
        if not prompt or nouns is None:
            raise ConceptError(f"cannot read {file}; expected {expected}.")
        others = [n for n in dict.fromkeys(n.lower() for n in nouns) if not any(same_name(n, w) for w in words)]
        items += [Item(SELECTIVE, prompt, {ATTRIBUTE: noun}) for noun in others]
    return items
