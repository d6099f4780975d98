"""Attacking a model from Python, with the arguments of `excise attack`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from excise.attacks.suite import SuiteOptions, SuiteResult, target_of
from excise.attacks.suite import attack as run_suite
from excise.concepts.concept import Concept
from excise.edits.edit import Edit
from excise.families.built_in import is_built_in
from excise.families.load import as_family
from excise.support.progress import Report, silent


def attack(
    model: Any,
    concept: str | Concept,
    suite: str = "quick",
    *,
    edits: Sequence[Edit] = (),
    attacks: Sequence[str] = (),
    kind: str | None = None,
    judge: object | None = None,
    others: Sequence[str] = (),
    ask: Sequence[str] = (),
    tests: int | None = None,
    images: int | None = None,
    base: Any = None,
    oracle: Any = None,
    allow_other_base: bool = False,
    seed: int = 0,
    folder: Path | None = None,
    cache: Path | None = None,
    progress: Report = silent,
    **settings: Any,
) -> SuiteResult:
    """Try to bring an erased concept back. The model is unchanged afterwards.

    Args:
        model: a pipeline, or the result of `excise.load`.
        concept: the target; a name takes its kind and synonyms from the record of an edit, where one has it.
        suite: the attacks and their budget: quick, standard or full.
        edits: applied together while the model is attacked.
        attacks: attacks of the suite to make; by default all.
        kind: of a concept that is given as a name.
        judge: says whether a picture shows the concept: the folder of a CLIP model, a function (images, names) to
            booleans, or an object with `sees` or `verdicts`. Built-in models have their own.
        others: other things of the target's kind.
        ask: prompts of your own that ask for the target.
        tests, images: number of test prompts, and of pictures for each; by default those of the suite.
        base: the untouched model, where this one was erased by other means than `edits`.
        oracle: a model that never knew the concept, attacked in the same way.
        allow_other_base: apply edits to another model than they were made for.
        seed: of every search and picture.
        folder: keeps finished attacks, so that the same call goes on where it stopped.
        cache: folder of drawn images.
        progress: receives stage, done and total.
        settings: settings for every attack that has them.

    Raises:
        ConceptError: the untouched model does not draw the concept, or there is no judge.
        ModelError, SettingError, UnknownNameError, AttackError, PluginError, JudgeError: bad input, in one sentence.

    >>> attack(pipe, "cat", edits=[edit])  # doctest: +SKIP
    """
    family = as_family(model)
    if isinstance(concept, str):
        canvas = is_built_in(family) or (base is not None and is_built_in(as_family(base)))
        concept = target_of(concept, edits, kind, canvas=canvas)
    options = SuiteOptions(
        suite=suite,
        names=attacks,
        settings=settings,
        images=images,
        tests=tests,
        base=base,
        oracle=oracle,
        judge=judge,
        others=others,
        prompts=ask,
        allow_other_base=allow_other_base,
        seed=seed,
        folder=folder,
        cache=cache,
    )
    return run_suite(family, concept, edits, options, progress)
