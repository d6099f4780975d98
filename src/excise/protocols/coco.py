"""CLIP score on captions of everyday scenes (MS-COCO, a file of the user): what an erasure does to all else."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from excise.protocols.base import Item, Protocol, numbered
from excise.protocols.prompt_file import Row, prompts_of

FILE = "EXCISE_COCO"


def coco() -> Protocol:
    """Return the protocol with one image for each caption of the file that EXCISE_COCO names (group `captions`).

    It has no targets: it measures images of prompts that do not ask for an erased concept.

    Raises:
        ConceptError: the file is missing or cannot be read, or a row has no caption or an invalid seed.
    """
    return Protocol(
        name="coco",
        items=tuple(_items(_read())),
        steps=50,
        guidance=7.5,
        judge="clip-score",
        score="captions",
        labels={},
        groups=("captions",),
        target_groups=("captions",),
        features="clip-image",
        notes={
            "captions": "the user's own file; papers take 1,000 to 30,000 captions of the 2014 validation set",
            "sampler": "ours: 50 steps, guidance 7.5, the model's own scheduler",
            "judge": "scores of two CLIP models are not on one scale; the judge's name says which it was",
        },
    )


def _read() -> list[Row]:
    return prompts_of(
        FILE,
        f"coco reads captions from a CSV or JSON file, and {FILE} names none; set it, for example: "
        f"export {FILE}=~/coco_30k.csv (columns caption and, if you like, seed)",
    )


def _items(rows: Sequence[Row]) -> Iterable[Item]:
    for row, index in zip(rows, numbered(row.prompt for row in rows), strict=True):
        yield Item("captions", row.prompt, {}, index, seed=row.seed)
