"""UA, IRA, CRA and H of one target on an object x style world, as in UnlearnCanvas (arXiv 2402.11846).

UA: share of target prompts whose image is not judged to show the target (higher is better).
IRA: share of other prompts that still show the right value of the target's own attribute (objects for an object).
CRA: share of the same prompts that still show the right value of the other attribute.
H: harmonic mean of the three.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from excise.metrics.rates import Estimate, harmonic_of_rates, rate

OTHER = {"object": "style", "style": "object"}


@dataclass(frozen=True)
class Seen:
    """What was asked for and what a judge saw, one entry an image.

    Attributes:
        asked, seen: per attribute ("object", "style"), the labels. An abstention is its own label.
    """

    asked: dict[str, Sequence[str]]
    seen: dict[str, Sequence[str]]

    def right(self, attribute: str) -> np.ndarray:
        """(n,) whether the judge saw what was asked for."""
        pairs = zip(self.asked[attribute], self.seen[attribute], strict=True)
        return np.array([a == s for a, s in pairs], dtype=bool)

    def asks(self, attribute: str, label: str) -> np.ndarray:
        """(n,) whether `label` was asked for."""
        return np.array([a == label for a in self.asked[attribute]], dtype=bool)


def unlearning(seen: Seen, targets: Sequence[tuple[str, str]]) -> dict[str, Estimate]:
    """UA, IRA, CRA and H. With several targets their observations are pooled.

    Args:
        targets: (attribute, label) pairs, the attribute being the target's own.

    Raises:
        ValueError: no prompt asks for a target, or every prompt does.
    """
    touched = np.any([seen.asks(attribute, label) for attribute, label in targets], axis=0)
    gone = np.concatenate([~seen.right(a)[seen.asks(a, label)] for a, label in targets])
    own = list(dict.fromkeys(attribute for attribute, _ in targets))
    kept = np.concatenate([seen.right(attribute)[~touched] for attribute in own])
    crossed = np.concatenate([seen.right(OTHER[attribute])[~touched] for attribute in own])
    return {
        "ua": rate(gone),
        "ira": rate(kept),
        "cra": rate(crossed),
        "h": harmonic_of_rates([gone, kept, crossed]),
    }


def replacements(seen: Seen, attribute: str, target: str) -> dict[str, int]:
    """What the images of target prompts show now, most frequent first."""
    labels = np.asarray(seen.seen[attribute])[seen.asks(attribute, target)]
    return dict(Counter(labels.tolist()).most_common())


def accuracy_grid(seen: Seen, attribute: str, objects: Sequence[str], styles: Sequence[str]) -> np.ndarray:
    """(objects, styles) share of images with the right `attribute` in each cell; nan where none was asked for."""
    grid = np.full((len(objects), len(styles)), np.nan)
    right = seen.right(attribute)
    for i, o in enumerate(objects):
        for j, s in enumerate(styles):
            cell = seen.asks("object", o) & seen.asks("style", s)
            if cell.any():
                grid[i, j] = right[cell].mean()
    return grid
