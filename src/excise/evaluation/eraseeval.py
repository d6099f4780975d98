"""EraseEval's metrics of an evaluation: the images of both models to the four scores and the single one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from excise.evaluation.scoring import Metrics, Shown
from excise.families.drawing import Images
from excise.metrics.eraseeval import kept_alignment, kept_quality, mean_reflected, reflected, single
from excise.protocols.eraseeval import real_pictures

REFLECTED = {"target": "reflected", "implicit": "implicit_reflected"}
Side = tuple[Sequence[Shown], Images]
"""What was judged of the images of a model, and the images."""


def eraseeval_metrics(before: Side, after: Side, embed: Callable[[Images], np.ndarray]) -> Metrics:
    """Return what can be measured of M1 to M4, and their harmonic mean where all four are.

    A concept that the untouched model shows in no image of a criterion has no part in it: nothing shows that it went.
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
        cosines = []
        for label in dict.fromkeys(_label(s) for s in shown if s.group == group and s.asked):
            rows = [i for i, s in enumerate(shown) if s.group == group and _label(s) == label]
            if any(before[0][i].saw == before[0][i].asked for i in rows):
                old, new = (embed(side[1].at(rows)) for side in (before, after))
                cosines.append(reflected(old, new, [shown[i].saw == shown[i].asked for i in rows]))
        if cosines:
            metrics[key] = mean_reflected(cosines)
    rows = [i for i, s in enumerate(shown) if s.group == "captions"]
    if rows and all("clip_score" in side[0][i].values for side in (before, after) for i in rows):
        old_scores, new_scores = ([side[0][i].values["clip_score"] for i in rows] for side in (before, after))
        if sum(old_scores) > 0:
            metrics["alignment_kept"] = kept_alignment(old_scores, new_scores)
    if rows and (real := real_pictures()):
        metrics["quality_kept"] = kept_quality(embed(before[1].at(rows)), embed(after[1].at(rows)), embed(Images(real)))
    if len(metrics) == 4:
        metrics["eraseeval"] = single(list(metrics.values()))
    return metrics


def _label(shown: Shown) -> str:
    return next(iter(shown.asked.values()), "")
