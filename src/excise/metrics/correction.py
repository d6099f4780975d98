"""UA corrected for errors of the judge, and for targets that the untouched model never showed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from excise.metrics.rates import Estimate, rate


def rogan_gladen(observed: float, sensitivity: float, specificity: float) -> float:
    """Return the true rate behind an observed one, (observed + q - 1) / (s + q - 1), clipped to 0..1.

    Source: Rogan & Gladen, 1978.

    Args:
        observed: share of images in which the judge sees the target.
        sensitivity: s, share of images with the target in which the judge sees it.
        specificity: q, share of images without the target in which the judge does not see it.

    Raises:
        ValueError: an argument outside 0..1, or a judge no better than chance (s + q <= 1).

    >>> round(rogan_gladen(0.26, sensitivity=0.9, specificity=0.98), 4)
    0.2727
    """
    for name, value in (("observed", observed), ("sensitivity", sensitivity), ("specificity", specificity)):
        if not 0 <= value <= 1:
            raise ValueError(f"{name} is {value}; it must be a share between 0 and 1")
    if sensitivity + specificity <= 1:
        raise ValueError(
            f"sensitivity {sensitivity} + specificity {specificity} is not above 1: such a judge tells nothing"
        )
    return float(np.clip((observed + specificity - 1) / (sensitivity + specificity - 1), 0, 1))


def corrected_ua(ua: Estimate, sensitivity: float, specificity: float) -> Estimate:
    """Return UA corrected by `rogan_gladen`: value and both ends of the interval. Treats s and q as exact.

    Raises:
        ValueError: as `rogan_gladen`.
    """
    value, low, high = (1 - rogan_gladen(1 - end, sensitivity, specificity) for end in (ua.value, ua.low, ua.high))
    return Estimate(value, low, high, ua.n)


def relative_ua(shown_before: Sequence[bool] | np.ndarray, shown_after: Sequence[bool] | np.ndarray) -> Estimate:
    """Return the share of images without the target among those that showed it before the edit.

    Args:
        shown_before: (n,) whether the judge saw the target in the images of the untouched model.
        shown_after: (n,) the same for the edited model, on the same prompts and seeds.

    Raises:
        ValueError: the untouched model never showed it, or the lengths differ.
    """
    before, after = np.asarray(shown_before, dtype=bool), np.asarray(shown_after, dtype=bool)
    if before.shape != after.shape:
        raise ValueError(f"{len(before)} images before and {len(after)} after; they must be the same prompts and seeds")
    if not before.any():
        raise ValueError("the untouched model showed the target in no image, so there is nothing to unlearn")
    return rate(~after[before])
