"""The ten Imagenette classes erased together, as ScaPre (arXiv 2601.06162) tests it."""

from __future__ import annotations

from excise.protocols.base import Item, Protocol

CLASSES = {  # by ImageNet index
    0: "tench",
    217: "English springer",
    482: "cassette player",
    491: "chain saw",
    497: "church",
    566: "French horn",
    569: "garbage truck",
    571: "gas pump",
    574: "golf ball",
    701: "parachute",
}
SEEDS = 130


def imagenette() -> Protocol:
    """Group `grid`: 130 images of each class. With edits and no concept named, all ten count as erased.

    Top-1 accuracies of ScaPre's Table 5 are `acc_e`; one class is what `became` says of it.
    """
    classes = tuple(CLASSES.values())
    return Protocol(
        name="imagenette",
        items=tuple(
            Item("grid", f"an image of a {name}", {"class": name}, index) for name in classes for index in range(SEEDS)
        ),
        steps=50,
        guidance=7.5,
        judge="imagenet-resnet50",
        score="classes",
        labels={"class": classes},
        groups=("grid",),
        target_groups=("grid",),
        fixed_targets=classes,
        notes={
            "paper": "arXiv 2601.06162",
            "seeds": "ours; the paper's come from a file that is not public",
            "sampler": "steps and guidance are the pipeline's defaults, which the paper's evaluator leaves as they are",
            "judge": "a class is an index; the paper's evaluator takes a name that is part of another for the same",
        },
    )
