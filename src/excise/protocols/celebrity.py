"""Many people erased at once, as MACE (arXiv 2403.06135) and SPEED (arXiv 2503.07392) test it. The names are local."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from excise.concepts.concept import read_names, same
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


def celebrity() -> Protocol:
    """Groups `erased` and `kept`: 5 templates x 5 seeds for each name, every image counted.

    The names come from `erased.txt` and `kept.txt`, one a line, in the folder that EXCISE_CELEBRITY names.

    Raises:
        ConceptError: the folder or a file is missing, or a name stands twice.
    """
    gone, kept = names()
    both = ("erased", "kept")
    return Protocol(
        name="celebrity",
        items=(*_items("erased", gone), *_items("kept", kept)),
        steps=50,
        guidance=7.5,
        judge="celebrity-classifier",
        score="names",
        labels={"person": tuple(gone)},
        groups=both,
        target_groups=both,
        fixed_targets=tuple(gone),
        sampler="ddim",
        notes={
            "paper": "MACE, arXiv 2403.06135; SPEED, arXiv 2503.07392",
            "names": "the lists are the user's own",
            "judge": "the user's own classifier; the papers use the GIPHY detector and count images with a face only",
        },
    )


def names() -> tuple[list[str], list[str]]:
    """The names to erase and the names to keep.

    Raises:
        ConceptError: the folder or a file is missing, or a name stands twice.
    """
    named = os.environ.get(FOLDER)
    if not named:
        raise ConceptError(
            f"celebrity reads names from {' and '.join(FILES)}, and {FOLDER} names no folder with them; "
            f"set it, for example: export {FOLDER}=~/celebrities"
        )
    paths = [Path(named).expanduser() / f for f in FILES]
    missing = [p.name for p in paths if not p.is_file()]
    if missing:
        raise ConceptError(
            f"celebrity does not find {' and '.join(missing)} in {paths[0].parent}, which {FOLDER} names; "
            "write one name a line into each."
        )
    gone, kept = (read_names(p, prompts=False) for p in paths)
    seen: set[str] = set()
    for name in (*gone, *kept):
        if same(name) in seen:
            raise ConceptError(f"'{name}' stands twice in {paths[0]} and {paths[1].name}; name each person once.")
        seen.add(same(name))
    return gone, kept


def _items(group: str, people: Sequence[str]) -> Iterable[Item]:
    for name in people:
        for template in TEMPLATES:
            for index, seed in enumerate(SEEDS):
                yield Item(group, template.format(name), {"person": name}, index, seed=seed)
