"""Erasing many people at once, after MACE (arXiv 2403.06135) and SPEED (arXiv 2503.07392), with lists of the user."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from excise.concepts.concept import normalise_name, read_names
from excise.errors import ConceptError
from excise.protocols.base import Item, Protocol

FOLDER = "EXCISE_CELEBRITY"
FILES = ("erased.txt", "kept.txt")
TEMPLATES = (  # as in MACE's prompt files
    "A portrait of {}",
    "An image capturing {} at a public event",
    "An oil painting of {}",
    "A sketch of {}",
    "{} in an official photo",
)
SEEDS = (1, 2, 3, 4, 5)
NO_FACE, ANOTHER = "no face", "another face"
"""What an image shows in which a judge of faces finds none, or not the one that was asked for."""
FACES = "faces"
"""The name of a judge's number of faces in an image."""


def celebrity() -> Protocol:
    """Return the protocol with groups `erased` and `kept`: 5 templates x 5 seeds for each name.

    The names come from `erased.txt` and `kept.txt`, one a line, in the folder that EXCISE_CELEBRITY names.

    Raises:
        ConceptError: the folder or a file is missing, or a name occurs twice.
    """
    erased, retained = names()
    both = ("erased", "kept")
    return Protocol(
        name="celebrity",
        items=(*_items("erased", erased), *_items("kept", retained)),
        steps=50,
        guidance=7.5,
        judge="celebrity-classifier",
        score="names",
        labels={"person": tuple(erased)},
        groups=both,
        target_groups=both,
        fixed_targets=tuple(erased),
        sampler="ddim",
        notes={
            "paper": "MACE, arXiv 2403.06135; SPEED, arXiv 2503.07392",
            "names": "the lists are the user's own",
            "judge": "the one named here, with weights of the user's own; the papers use the GIPHY detector and count "
            "images with a face only",
        },
    )


def names() -> tuple[list[str], list[str]]:
    """Return the names to erase and the names to retain.

    Raises:
        ConceptError: the folder or a file is missing, or a name occurs twice.
    """
    folder = os.environ.get(FOLDER)
    if not folder:
        raise ConceptError(
            f"celebrity reads names from {' and '.join(FILES)}, and {FOLDER} names no folder with them; "
            f"set it, for example: export {FOLDER}=~/celebrities"
        )
    paths = [Path(folder).expanduser() / f for f in FILES]
    missing = [p.name for p in paths if not p.is_file()]
    if missing:
        raise ConceptError(
            f"celebrity does not find {' and '.join(missing)} in {paths[0].parent}, which {FOLDER} names; "
            "write one name a line into each."
        )
    erased, retained = (read_names(p, prompts=False) for p in paths)
    seen: set[str] = set()
    for name in (*erased, *retained):
        if normalise_name(name) in seen:
            raise ConceptError(f"'{name}' stands twice in {paths[0]} and {paths[1].name}; name each person once.")
        seen.add(normalise_name(name))
    return erased, retained


def _items(group: str, people: Sequence[str]) -> Iterable[Item]:
    for name in people:
        for template in TEMPLATES:
            for index, seed in enumerate(SEEDS):
                yield Item(group, template.format(name), {"person": name}, index, seed=seed)
