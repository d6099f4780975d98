"""UA, IRA, CRA and H of one target on an object x style world, as in UnlearnCanvas (arXiv 2402.11846).

UA: share of target prompts whose image is not judged to show the target (higher is better).
IRA: share of other prompts that still show the right value of the target's own attribute (objects for an object).
CRA: share of the same prompts that still show the right value of the other attribute.
H: harmonic mean of the three.

Finer scale (one object in one style), replacements and the sequential table are of the same benchmark; selective
alignment and neighbours of HUB (arXiv 2410.05664); the scores over names of MACE (2403.06135) and SPEED (2503.07392).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from excise.metrics.rates import Estimate, harmonic_of_rates, rate

NONE = "none"
"""The label of a picture in which a judge sees nothing that it knows."""
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

    Beside them `ira_worst`, the IRA of the label that suffered most, and `cra_uc`, the CRA over every prompt, those of
    the target included, as the benchmark's own script counts. H does not contain either.

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
        "ira_worst": worst_label(seen, targets)[1],
        "cra_uc": rate(np.concatenate([seen.right(OTHER[attribute]) for attribute in own])),
    }


def worst_label(seen: Seen, targets: Sequence[tuple[str, str]]) -> tuple[str, Estimate]:
    """The label of the targets' own attributes that is right least often, over prompts without a target.

    The interval is that of this label alone: it does not know that the label was picked for being the lowest.

    Raises:
        ValueError: every prompt asks for a target.
    """
    touched = np.any([seen.asks(attribute, label) for attribute, label in targets], axis=0)
    if touched.all():
        raise ValueError("every prompt asks for a target; the worst other label needs prompts without one")
    found = []
    for attribute in dict.fromkeys(attribute for attribute, _ in targets):
        right, asked = seen.right(attribute)[~touched], np.asarray(seen.asked[attribute])[~touched]
        found += [(str(label), rate(right[asked == label])) for label in dict.fromkeys(asked.tolist())]
    return min(found, key=lambda pair: pair[1].value)


def replacements(seen: Seen, attribute: str, target: str) -> dict[str, int]:
    """What the images of target prompts show now, most frequent first."""
    labels = np.asarray(seen.seen[attribute])[seen.asks(attribute, target)]
    return dict(Counter(labels.tolist()).most_common())


def replacement_entropy(counts: Mapping[str, int], target: str | None = None) -> float:
    """Entropy in bits of what took the target's place; 0 when all became one thing, or nothing was replaced.

    Args:
        counts: images by the label they show, as `replacements` returns them.
        target: its label, left out of the count; None if `counts` does not hold it.

    >>> replacement_entropy({"dog": 2, "car": 2, "cat": 6}, target="cat")
    1.0
    """
    n = np.array([count for label, count in counts.items() if label != target and count > 0], dtype=float)
    if len(n) < 2:
        return 0.0
    p = n / n.sum()
    return float(-(p * np.log2(p)).sum())


def selective_alignment(seen: Seen, targets: Sequence[tuple[str, str]]) -> Estimate:
    """The share of target prompts whose other attribute is still right: "cat in neon style" is neon, cat or no cat.

    Raises:
        ValueError: no prompt asks for a target.
    """
    return rate(np.concatenate([seen.right(OTHER[a])[seen.asks(a, label)] for a, label in targets]))


def finer_scale(seen: Seen, obj: str, style: str) -> dict[str, Estimate]:
    """What became of one object in one style, and of what lies around the pair.

    Returns:
        `ua`: the pair's images that do not show both; `sc`: the style right on other objects; `oc`: the object right in
        other styles; `up`: both right where neither was asked for.

    Raises:
        ValueError: one of the four groups has no prompts.
    """
    asks_object, asks_style = seen.asks("object", obj), seen.asks("style", style)
    object_right, style_right = seen.right("object"), seen.right("style")
    both = object_right & style_right
    return {
        "ua": rate(~both[asks_object & asks_style]),
        "sc": rate(style_right[~asks_object & asks_style]),
        "oc": rate(object_right[asks_object & ~asks_style]),
        "up": rate(both[~asks_object & ~asks_style]),
    }


def names_scores(
    erased_right: Sequence[bool] | np.ndarray, kept_right: Sequence[bool] | np.ndarray
) -> dict[str, Estimate]:
    """Many names at once: Acc_e (lower is better), Acc_r (higher), and H_o = 2 / (1 / (1 - Acc_e) + 1 / Acc_r).

    H_o as in SPEED; MACE calls it H_c. Every image counts, also one in which the judge found nothing.

    Args:
        erased_right, kept_right: (n,), (m,) whether the judge saw the name that was asked for.

    Raises:
        ValueError: no observations.
    """
    erased, kept = np.asarray(erased_right, dtype=bool), np.asarray(kept_right, dtype=bool)
    return {"acc_e": rate(erased), "acc_r": rate(kept), "h_o": harmonic_of_rates([~erased, kept])}


def sequence_matrix(steps: Sequence[Sequence[float]]) -> tuple[np.ndarray, np.ndarray]:
    """The table of targets T1..Tk erased one after another.

    Args:
        steps: after step i (from 1) the UA of T1..Ti, so one value more each step.

    Returns:
        (k, k) UA by step and target, nan for targets not yet erased; and (k,) rebound, the UA right after a target's
        own erasure minus its UA at the end: positive where later steps brought it back.

    Raises:
        ValueError: no steps, or a step with another number of targets.
    """
    k = len(steps)
    if k == 0:
        raise ValueError("a sequence needs at least one step")
    matrix = np.full((k, k), np.nan)
    for i, row in enumerate(steps):
        if len(row) != i + 1:
            raise ValueError(
                f"step {i + 1} has {len(row)} targets; it needs one UA for each of the {i + 1} erased by then"
            )
        matrix[i, : i + 1] = row
    return matrix, np.diag(matrix) - matrix[-1]
