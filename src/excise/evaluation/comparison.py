"""Comparisons of the edited with the untouched model, on the same prompts and seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from excise.evaluation.scoring import Shown
from excise.families.base import Family
from excise.families.drawing import Images
from excise.families.text_space import pooled
from excise.metrics.images import drift
from excise.metrics.neighbours import neighbour_damage
from excise.metrics.rates import Estimate, clustered_mean
from excise.protocols.base import Target
from excise.protocols.concept import SELECTIVE

BINS = 5  # of distance, at most


def drift_by_prompt(before: Images, after: Images, prompts: Sequence[str]) -> Estimate:
    """Mean pixel difference of image pairs, 0 to 1; the interval comes from resampling prompts."""
    pairs = zip(before, after, strict=True)
    return clustered_mean([float(drift(np.asarray(a)[None], np.asarray(b)[None])[0]) for a, b in pairs], prompts)


def damage_by_distance(
    family: Family, before: Sequence[Shown], after: Sequence[Shown], targets: Sequence[Target]
) -> dict[str, list[dict[str, Any]]]:
    """Return, for each target, how much accuracy the other labels of its attribute lost, by distance to the target.

    The distance is one minus the cosine between the end-token states of the two names. Bins hold equally many names,
    the nearest first.
    """
    damage: dict[str, list[dict[str, Any]]] = {}
    for attribute, label in targets:
        others = [i for i, s in enumerate(after) if s.asked.get(attribute) not in (None, label)]
        rows = [i for i in others if after[i].target is None and after[i].group != SELECTIVE]
        names = list(dict.fromkeys(after[i].asked[attribute] for i in rows))
        if len(names) < 2:
            continue
        ends = pooled(family, [label, *names])
        distance = 1 - torch.cosine_similarity(ends[:1], ends[1:]).numpy()
        distance_of = dict(zip(names, distance, strict=True))
        bins = neighbour_damage(
            [distance_of[after[i].asked[attribute]] for i in rows],
            [before[i].right(attribute) for i in rows],
            [after[i].right(attribute) for i in rows],
            bins=min(BINS, max(1, len(names) // 2)),
        )
        damage[label] = [asdict(b) for b in bins]
    return damage
