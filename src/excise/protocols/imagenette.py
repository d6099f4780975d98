"""Erasing the ten Imagenette classes together, after ScaPre (arXiv 2601.06162)."""

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
    """Return the protocol with 130 images of each class (group `grid`), all ten of which count as erased by default.

    The metric `acc_e` is the top-1 accuracy of ScaPre's Table 5.
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
