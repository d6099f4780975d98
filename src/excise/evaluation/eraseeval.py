"""EraseEval's metrics of an evaluation: the images of both models to the four scores and the single one."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from excise.errors import JudgeError
from excise.evaluation.scoring import Metrics, Shown
from excise.families.drawing import Images
from excise.metrics.eraseeval import kept_alignment, kept_quality, reflected, single
from excise.metrics.rates import clustered_mean
from excise.protocols.eraseeval import MOST_CAPTIONS, PICTURES_FOLDER

ENDINGS = (".jpg", ".jpeg", ".png", ".webp")
REFLECTED = {"target": "reflected", "implicit": "implicit_reflected"}
Side = tuple[Sequence[Shown], Images]
"""What was judged of the images of a model, and the images."""


def eraseeval_metrics(before: Side, after: Side, embed: Callable[[Images], np.ndarray]) -> Metrics:
    """Return what can be measured of M1 to M4, and their harmonic mean where all four are.

    M3 needs a judge that scores images and captions, M4 the folder of real pictures that EXCISE_COCO_IMAGES names.

    Args:
        before, after: by the untouched model and with the edits, the same prompts and seeds.
        embed: images to embeddings (n, d).

    Raises:
        JudgeError: the folder of real pictures holds none.
    """
    shown = after[0]
    metrics: Metrics = {}
    for group, key in REFLECTED.items():
        values: list[float] = []
        for label in dict.fromkeys(_label(s) for s in shown if s.group == group and s.asked):
            rows = [i for i, s in enumerate(shown) if s.group == group and _label(s) == label]
            old, new = (embed(side[1].at(rows)) for side in (before, after))
            values += reflected(old, new, [shown[i].saw == shown[i].asked for i in rows]).tolist()
        if values:
            metrics[key] = clustered_mean(values, range(len(values)))
    rows = [i for i, s in enumerate(shown) if s.group == "captions"]
    if rows and all("clip_score" in side[0][i].values for side in (before, after) for i in rows):
        old_scores, new_scores = ([side[0][i].values["clip_score"] for i in rows] for side in (before, after))
        if sum(old_scores) > 0:
            metrics["alignment_kept"] = kept_alignment(old_scores, new_scores)
    if rows and (folder := os.environ.get(PICTURES_FOLDER)):
        real = embed(real_pictures(Path(folder).expanduser()))
        metrics["quality_kept"] = kept_quality(embed(before[1].at(rows)), embed(after[1].at(rows)), real)
    if len(metrics) == 4:
        metrics["eraseeval"] = single(list(metrics.values()))
    return metrics


def real_pictures(folder: Path) -> Images:
    """Return the first pictures of a folder by name, as many as the protocol has captions at most.

    Raises:
        JudgeError: there is none, or one is no picture.
    """
    files = sorted(p for p in folder.glob("*") if p.suffix.lower() in ENDINGS)[:MOST_CAPTIONS]
    if not files:
        raise JudgeError(f"{PICTURES_FOLDER} is {folder}, which has no {', '.join(ENDINGS)} files.")
    for file in files:
        try:
            with Image.open(file) as image:
                image.verify()
        except (OSError, SyntaxError, ValueError) as error:
            raise JudgeError(f"{file} is no readable picture ({error}); take it out of {folder}.") from error
    return Images(files)


def _label(shown: Shown) -> str:
    return next(iter(shown.asked.values()), "")
