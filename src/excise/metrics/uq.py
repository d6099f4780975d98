"""UQ of ScaPre (arXiv 2601.06162): unlearning and image quality in one number, relative to the rows of a table."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import expit


def uq(accuracy: Sequence[float] | np.ndarray, clip: Sequence[float] | np.ndarray) -> np.ndarray:
    """Return UQ in 0..100 for each of the k rows of a table, (k,); higher is better.

        U = sigmoid((mean(A) - A) / sd(A)),    Q = sigmoid((C - mean(C)) / sd(C)),    UQ = 100 * 2 / (1 / U + 1 / Q)

    Mean and population standard deviation are taken over all rows, that of the untouched model included. The rule is
    inferred from the figures of the paper's Table 5: it yields seven of the eight UQ to the last printed digit, and
    52.89 for SPM where 49.89 is printed. Every row depends on all others, so a value means nothing outside its table.

    Args:
        accuracy: (k,) A, accuracy on the erased concepts, in per cent or as shares.
        clip: (k,) C, CLIP score on COCO prompts.

    Raises:
        ValueError: lengths differ, or one argument is the same in all rows, so that its deviation is 0.
    """
    a, c = np.asarray(accuracy, dtype=float), np.asarray(clip, dtype=float)
    if a.ndim != 1 or a.shape != c.shape:
        raise ValueError(f"shapes {a.shape} and {c.shape}; both must be (k,), one entry for each row of the table")
    for name, values in (("accuracy", a), ("clip", c)):
        if len(values) < 2 or np.ptp(values) == 0:
            raise ValueError(f"{name} is the same in all rows; UQ compares at least two that differ")
    unlearnt, quality = expit((a.mean() - a) / a.std()), expit((c - c.mean()) / c.std())
    return 200 / (1 / unlearnt + 1 / quality)
