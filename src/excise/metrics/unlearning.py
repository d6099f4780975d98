"""Scores of an erasure from a judge's labels: UA, IRA, CRA and H as in UnlearnCanvas (arXiv 2402.11846), and others.

UA: share of target prompts whose image is not judged to show the target (higher is better).
IRA: share of other prompts that still show the right value of the target's own attribute (objects for an object).
CRA: share of the same prompts that still show the right value of the other attribute.
H: harmonic mean of the three.

The finer scale (one object in one style), replacements and the table of sequential erasure are of the same benchmark,
selective alignment is of HUB (arXiv 2410.05664), scores over names are of MACE (2403.06135) and SPEED (2503.07392).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from excise.metrics.rates import Estimate, harmonic_of_rates, rate

NONE = "none"
"""Label of an image on which a judge abstains."""
OTHER = {"object": "style", "style": "object"}


@dataclass(frozen=True)
class Seen:
    """Requested labels of images and the labels that a judge gave them.

    Attributes:
        asked: by attribute ("object", "style"), the label that each image should show, (n,).
        seen: by attribute, the label that the judge gave it, (n,); an abstention is the label `NONE`.
    """

    asked: dict[str, Sequence[str]]
    seen: dict[str, Sequence[str]]

    def right(self, attribute: str) -> np.ndarray:
        """Return (n,) whether the judge saw the requested label."""
        pairs = zip(self.asked[attribute], self.seen[attribute], strict=True)
        return np.array([a == s for a, s in pairs], dtype=bool)

    def asks(self, attribute: str, label: str) -> np.ndarray:
        """Return (n,) whether `label` was requested."""
        return np.array([a == label for a in self.asked[attribute]], dtype=bool)


def unlearning(seen: Seen, targets: Sequence[tuple[str, str]]) -> dict[str, Estimate]:
    """Return `ua`, `ira`, `cra`, `h`, `ira_worst` and `cra_uc`; the observations of several targets are pooled.

    `ira_worst` is the IRA of the label that is right least often. `cra_uc` is the CRA over all prompts, those of the
    target included, as the benchmark's own script counts it. H contains neither.

    Args:
        seen: labels of all images.
        targets: (attribute, label) pairs, each with the target's own attribute.

    Raises:
        ValueError: no prompt asks for a target, or every prompt does.
    """
    about_target = np.any([seen.asks(attribute, label) for attribute, label in targets], axis=0)
    attributes = list(dict.fromkeys(attribute for attribute, _ in targets))
    unlearned = np.concatenate([~seen.right(a)[seen.asks(a, label)] for a, label in targets])
    in_domain = np.concatenate([seen.right(attribute)[~about_target] for attribute in attributes])
    cross_domain = np.concatenate([seen.right(OTHER[attribute])[~about_target] for attribute in attributes])
    return {
        "ua": rate(unlearned),
        "ira": rate(in_domain),
        "cra": rate(cross_domain),
        "h": harmonic_of_rates([unlearned, in_domain, cross_domain]),
        "ira_worst": worst_label(seen, targets)[1],
        "cra_uc": rate(np.concatenate([seen.right(OTHER[attribute]) for attribute in attributes])),
    }


def worst_label(seen: Seen, targets: Sequence[tuple[str, str]]) -> tuple[str, Estimate]:
    """Return the label of the targets' attributes that is right least often, over prompts without a target.

    The interval is that of the label alone; it does not account for selecting the lowest of many.

    Raises:
        ValueError: every prompt asks for a target.
    """
    about_target = np.any([seen.asks(attribute, label) for attribute, label in targets], axis=0)
    if about_target.all():
        raise ValueError("every prompt asks for a target; the worst other label needs prompts without one")
    rates = []
    for attribute in dict.fromkeys(attribute for attribute, _ in targets):
        right, requested = seen.right(attribute)[~about_target], np.asarray(seen.asked[attribute])[~about_target]
        rates += [(str(label), rate(right[requested == label])) for label in dict.fromkeys(requested.tolist())]
    return min(rates, key=lambda pair: pair[1].value)


def replacements(seen: Seen, attribute: str, target: str) -> dict[str, int]:
    """Return the number of images of target prompts by the label that they show, most frequent first."""
    labels = np.asarray(seen.seen[attribute])[seen.asks(attribute, target)]
    return dict(Counter(labels.tolist()).most_common())


def replacement_entropy(counts: Mapping[str, int], target: str | None = None) -> float:
    """Return the entropy in bits of the labels that replaced a target; 0 if there are fewer than two.

    Args:
        counts: number of images by the label that they show, as `replacements` returns.
        target: label of the target, which does not count; None if `counts` does not contain it.

    >>> replacement_entropy({"dog": 2, "car": 2, "cat": 6}, target="cat")
    1.0
    """
    n = np.array([count for label, count in counts.items() if label != target and count > 0], dtype=float)
    if len(n) < 2:
        return 0.0
    p = n / n.sum()
    return float(-(p * np.log2(p)).sum())


def selective_alignment(seen: Seen, targets: Sequence[tuple[str, str]]) -> Estimate:
    """Return the share of target prompts whose other attribute is right: "cat in neon style" is neon, cat or not.

    Raises:
        ValueError: no prompt asks for a target.
    """
    return rate(np.concatenate([seen.right(OTHER[a])[seen.asks(a, label)] for a, label in targets]))


def finer_scale(seen: Seen, obj: str, style: str) -> dict[str, Estimate]:
    """Return the scores of erasing one object in one style (finer-scale unlearning of UnlearnCanvas).

    Returns:
        `ua`: images of the pair that do not show both; `sc`: images of the style on other objects that show the style;
        `oc`: images of the object in other styles that show the object; `up`: images of neither that show both of
        their labels. All are shares.

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
    """Return the scores of erasing many names at once: `acc_e` (lower is better), `acc_r`, `h_o` (higher is better).

    H_o = 2 / (1 / (1 - Acc_e) + 1 / Acc_r), the name of SPEED; MACE calls it H_c. All images count, those on which the
    judge abstains as wrong.

    Args:
        erased_right: (n,) whether the judge saw the requested name, over images of erased names.
        kept_right: (m,) the same over images of retained names.

    Raises:
        ValueError: no observations.
    """
    erased, retained = np.asarray(erased_right, dtype=bool), np.asarray(kept_right, dtype=bool)
    return {"acc_e": rate(erased), "acc_r": rate(retained), "h_o": harmonic_of_rates([~erased, retained])}


def sequence_matrix(steps: Sequence[Sequence[float]]) -> tuple[np.ndarray, np.ndarray]:
    """Return the UA table and the rebound of targets T1..Tk erased one after another.

    Args:
        steps: for each step i from 1, the UA of T1..Ti after it; so step i has i values.

    Returns:
        (k, k) UA by step and target, nan for targets not yet erased; and (k,) rebound, a target's UA right after its
        own erasure minus its UA at the end: positive if later steps recovered the target.

    Raises:
        ValueError: no steps, or step i has not i values.
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
