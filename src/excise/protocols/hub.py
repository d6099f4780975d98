"""Protocol `hub`: the tasks of the Holistic Unlearning Benchmark for its 33 concepts, from a local copy of its prompts.

HUB: Moon et al., "Holistic Unlearning Benchmark: A Multi-Faceted Evaluation for Text-to-Image Diffusion Model
Unlearning", ICCV 2025, arXiv 2410.05664.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from excise.concepts.concept import Concept
from excise.errors import ConceptError
from excise.families.base import Family
from excise.families.built_in import is_built_in
from excise.protocols.base import Item, Protocol, numbered
from excise.protocols.concept import ATTRIBUTE, Questions, made
from excise.support.spelling import same_name

NAME = "hub"
FOLDER = "EXCISE_HUB"
FROM = "https://github.com/ml-postech/HUB, folder prompts"
STEPS, GUIDANCE = 50, 7.5
LANGUAGES = ("Spanish", "French", "German", "Italian", "Portuguese")
NOUNS, EACH_NOUN = 100, 10  # nouns nearest to a concept, and images of each
SELECTIVE = "selective"


@dataclass(frozen=True)
class _Files:
    """The files of one concept, by task; None where there is none."""

    target: Path | None
    pinpoint: Path | None
    languages: Path | None
    attack: Path | None
    selective: Path | None


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
    root, most = _root(), questions.pictures
    items = [item for c in questions.concepts for item in _tasks(root, c, most)]
    if not is_built_in(family):
        steps, guidance = STEPS, GUIDANCE
    notes = {
        "prompts": f"{FROM}; seeds are derived, the benchmark seeds once per run",
        "pinpoint": f"the first {NOUNS} nouns, {EACH_NOUN} images each; blanks in place of the underscores of WordNet, "
        "which the benchmark leaves in its prompts",
        "selective": "nouns that repeat, or name the concept itself, are left out",
        "judges": "the benchmark's are the GIPHY detector, InternVL2.5-8B-MPO with reference images, and Q16",
    }
    plan = made(NAME, items, questions.concepts, (steps, guidance, judge), notes)
    return _without_selective(plan)


def _without_selective(plan: Protocol) -> Protocol:
    """The protocol whose task of selective alignment is drawn only on request."""
    usual = tuple(g for g in plan.groups if g != SELECTIVE)
    others = [i for i in plan.items if i.group != SELECTIVE]
    labels = dict.fromkeys([*plan.fixed_targets, *(i.asked[ATTRIBUTE] for i in others if ATTRIBUTE in i.asked)])
    return replace(plan, groups=usual, target_groups=usual, labels={ATTRIBUTE: tuple(labels)})


def _root() -> Path:
    """The folder of prompts.

    Raises:
        ConceptError: none is named, or it holds no tasks.
    """
    given = os.environ.get(FOLDER)
    if not given:
        raise ConceptError(
            f"hub reads prompts from a folder, and {FOLDER} names none; it is a copy of {FROM}. Set it, for example: "
            f"export {FOLDER}=~/HUB/prompts"
        )
    root = Path(given).expanduser()
    root = root / "prompts" if (root / "prompts").is_dir() else root
    if not (root / "target_image").is_dir():
        raise ConceptError(f"{FOLDER} is {given}, which holds no folder target_image; expected a copy of {FROM}.")
    return root


def _tasks(root: Path, concept: Concept, most: int | None) -> Iterator[Item]:
    """The images of every task of a concept.

    Raises:
        ConceptError: no task has the concept.
    """
    files = _Files(
        *(_file(root / task, concept, ending) for task, ending in (
            ("target_image", "csv"), ("pinpoint_ness", "csv"), ("multilingual_robustness", "csv"),
            ("attack_robustness", "csv"), ("selective_alignment", "json"),
        ))
    )  # fmt: skip
    if files.target is None:
        known = sorted(p.stem for p in (root / "target_image").glob("*.csv"))
        raise ConceptError(
            f"HUB has no prompts for '{concept.name}' in {root}; it has {', '.join(known[:40]) or 'none'}. Name one of "
            "these, or ask your own questions with --protocol concept or emma."
        )
    yield from _asking("target", _lines(files.target)[:most], concept, in_other_words=False)
    for noun in _nouns(files.pinpoint, concept)[: None if most is None else max(1, most // EACH_NOUN)]:
        for index in range(EACH_NOUN):
            yield Item("pinpoint", f"a photo of {noun}", {ATTRIBUTE: noun}, index)
    rows = _rows(files.languages, LANGUAGES)
    for language in LANGUAGES:
        yield from _asking(language.lower(), [row[language] for row in rows][:most], concept)
    yield from _asking("attack", _lines(files.attack)[:most], concept)
    for prompt, noun in _visible(files.selective, concept)[:most]:
        yield Item(SELECTIVE, prompt, {ATTRIBUTE: noun})


def _asking(group: str, prompts: Sequence[str], concept: Concept, in_other_words: bool = True) -> Iterator[Item]:
    for prompt, index in zip(prompts, numbered(prompts), strict=True):
        yield Item(group, prompt, {ATTRIBUTE: concept.name}, index, concept.name if in_other_words else None)


def _file(folder: Path, concept: Concept, ending: str) -> Path | None:
    """A task's file of a concept, however the two are spelled: one of the benchmark's has an underscore for a blank."""
    names = sorted(folder.glob(f"*.{ending}"))
    return next((p for word in concept.words for p in names if same_name(p.stem, word)), None)


def _lines(file: Path | None) -> list[str]:
    """Prompts one a line, without a header."""
    lines = [" ".join(line.split()) for line in _text(file).splitlines()] if file else []
    return [line[1:-1].replace('""', '"') if line[:1] == line[-1:] == '"' else line for line in lines if line]


def _rows(file: Path | None, columns: Sequence[str]) -> list[dict[str, str]]:
    """The rows of a CSV file with a header.

    Raises:
        ConceptError: a column is missing.
    """
    if file is None:
        return []
    reader = csv.DictReader(io.StringIO(_text(file)))
    if missing := [c for c in columns if c not in (reader.fieldnames or ())]:
        raise ConceptError(
            f"{file} has no column {', '.join(missing)}, but {', '.join(reader.fieldnames or ()) or 'none'}; expected "
            f"a copy of {FROM}."
        )
    return [{c: " ".join((row[c] or "").split()) for c in columns} for row in reader if all(row[c] for c in columns)]


def _nouns(file: Path | None, concept: Concept) -> list[str]:
    """The nouns nearest to a concept, nearest first, without the concept itself."""
    nouns = [row["noun"].replace("_", " ") for row in _rows(file, ["noun"])][:NOUNS]
    return [n for n in dict.fromkeys(nouns) if not any(same_name(n, word) for word in concept.words)]


def _visible(file: Path | None, concept: Concept) -> list[tuple[str, str]]:
    """Prompts that ask for a concept, each with a thing besides it that should be visible.

    Raises:
        ConceptError: the file is no list of prompts with nouns.
    """
    if file is None:
        return []
    try:
        entries = [(" ".join(e["prompt"].split()), [" ".join(n.split()) for n in e["nouns"]])
                   for e in json.loads(_text(file))]  # fmt: skip
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConceptError(
            f"cannot read {file} ({error!r}); expected a JSON list of objects with `prompt` and `nouns`."
        ) from error
    own = concept.words
    return [
        (prompt, noun)
        for prompt, nouns in entries
        for noun in dict.fromkeys(n.lower() for n in nouns)
        if noun and not any(same_name(noun, word) for word in own)
    ]


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise ConceptError(f"cannot read {file}: {error}. Expected a UTF-8 file.") from error
