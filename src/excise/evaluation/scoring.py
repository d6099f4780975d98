"""From judged images to metrics: one function for each kind of protocol. No model and no image is touched here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict

from excise.errors import ModelError
from excise.metrics.correction import corrected_ua, relative_ua
from excise.metrics.rates import Estimate, clustered_mean, rate
from excise.metrics.unlearning import (
    NONE,
    Seen,
    finer_scale,
    names_scores,
    replacements,
    selective_alignment,
    unlearning,
)
from excise.protocols.base import Target, parts

Metrics = dict[str, Estimate]


class Shown(BaseModel):
    """One image: what was asked for, what the judge and the second judge saw, by attribute.

    `values` holds numbers that the judge gives beside a label, such as a CLIP score.
    """

    model_config = ConfigDict(frozen=True)

    group: str
    prompt: str
    seed: int
    asked: dict[str, str]
    saw: dict[str, str]
    second: dict[str, str] = {}
    values: dict[str, float] = {}
    target: str | None = None

    def right(self, attribute: str) -> bool:
        """Whether the judge saw what was asked for."""
        return self.saw[attribute] == self.asked[attribute]


def seen(shown: Sequence[Shown], *groups: str) -> Seen:
    """Asked and seen labels of some groups, as the metrics take them."""
    chosen = [s for s in shown if s.group in groups]
    attributes = list(dict.fromkeys(a for s in chosen for a in s.asked)) or ["object", "style"]
    return Seen(
        {a: [s.asked.get(a, "") for s in chosen] for a in attributes},
        {a: [s.saw[a] for s in chosen] for a in attributes},
    )


def grid(shown: Sequence[Shown], targets: Sequence[Target]) -> Metrics:
    """An object x style grid: accuracies, and with targets UA, IRA, CRA and H; aliases and names where drawn."""
    cells, names = seen(shown, "grid"), seen(shown, "names")
    found: Metrics = {}
    if cells.asked["object"]:
        found |= {f"{a}_accuracy": rate(cells.right(a)) for a in cells.asked}
        if targets:
            found |= unlearning(cells, targets)
            found["selective_alignment"] = selective_alignment(cells, targets)
    if names.asked["object"]:
        found["names_accuracy"] = rate(names.right("object"))
    return found | _asked_otherwise(shown, targets, {"aliases": "alias_rate"})


def aliases(shown: Sequence[Shown], targets: Sequence[Target]) -> Metrics:
    """How often a target appears when it is asked for in other words; without targets, how well those are drawn."""
    if targets:
        rates = {"synonyms": "synonym_rate", "spanish": "spanish_rate", "paraphrases": "paraphrase_rate"}
        return _asked_otherwise(shown, targets, rates)
    held_out = seen(shown, "paraphrases")
    return {f"{a}_accuracy": rate(held_out.right(a)) for a in held_out.asked}


def _asked_otherwise(shown: Sequence[Shown], targets: Sequence[Target], names: Mapping[str, str]) -> Metrics:
    """By group, the share of images about a target that show it."""
    own = {label: attribute for attribute, label in targets}
    found: Metrics = {}
    for group, name in names.items():
        hits = [s.right(own[s.target]) for s in shown if s.group == group and s.target in own]
        if hits:
            found[name] = rate(hits)
    return found


def names(shown: Sequence[Shown], targets: Sequence[Target]) -> Metrics:
    """Many names at once: Acc_e of the erased, Acc_r of the kept, H_o (MACE, SPEED)."""
    right = {g: [s.right(a) for s in shown if s.group == g for a in _first(s)] for g in ("erased", "kept")}
    if all(right.values()):
        return names_scores(right["erased"], right["kept"])
    return {name: rate(right[g]) for g, name in (("erased", "acc_e"), ("kept", "acc_r")) if right[g]}


def pairs(shown: Sequence[Shown], targets: Sequence[Target]) -> Metrics:
    """One object in one style at a finer scale: ua, sc, oc and up of the first target; without one, accuracies."""
    cells = seen(shown, "grid")
    if not targets:
        return {f"{a}_accuracy": rate(cells.right(a)) for a in cells.asked}
    pair = parts(targets[0])
    return finer_scale(cells, pair["object"], pair["style"])


def classes(shown: Sequence[Shown], targets: Sequence[Target]) -> Metrics:
    """Whole classes: accuracy, and with targets acc_e and ua of theirs (ua = 1 - acc_e), acc_r of the others."""
    asked = [(s.asked[a], s.right(a)) for s in shown for a in _first(s)]
    gone = {label for _, label in targets}
    erased = [right for label, right in asked if label in gone]
    kept = [right for label, right in asked if label not in gone]
    found = {"accuracy": rate([right for _, right in asked])} if asked else {}
    if erased:
        found |= {"acc_e": rate(erased), "ua": rate([not right for right in erased])}
    if erased and kept:
        found["acc_r"] = rate(kept)
    return found


def captions(shown: Sequence[Shown], targets: Sequence[Target]) -> Metrics:
    """Mean CLIP score, its interval from resampling prompts: seeds of one prompt are not independent.

    Raises:
        ModelError: the judge gave no `clip_score` for an image.
    """
    if any("clip_score" not in s.values for s in shown):
        raise ModelError(
            "the judge gave no clip_score for an image, and captions have no other metric; "
            "use one that has values(), such as clip-score."
        )
    if not shown:
        return {}
    return {"clip_score": clustered_mean([s.values["clip_score"] for s in shown], [s.prompt for s in shown])}


SCORES: dict[str, Callable[[Sequence[Shown], Sequence[Target]], Metrics]] = {
    "grid": grid,
    "aliases": aliases,
    "names": names,
    "pairs": pairs,
    "sequence": grid,
    "classes": classes,
    "captions": captions,
}


def score(kind: str, shown: Sequence[Shown], targets: Sequence[Target]) -> Metrics:
    """Every metric the shown images yield. Also serves to look at an untouched model through a target's eyes."""
    first = [(s, a) for s in shown for a in _first(s)]
    found: Metrics = {}
    if first:
        found["abstain"] = rate([s.saw[a] == NONE for s, a in first])
        if any(s.second for s, _ in first):
            found["judges_disagree"] = rate([s.saw[a] != s.second[a] for s, a in first])
    return found | SCORES[kind](shown, targets)


def compared(before: Sequence[Shown], after: Sequence[Shown], targets: Sequence[Target]) -> Metrics:
    """UA seen from the untouched model: of what it showed, and with the judge's own errors taken out.

    Both lists are of the same prompts and seeds; prompts in other words (aliases) are left out, as in UA. The judge's
    sensitivity and specificity for a target are measured on the untouched model's images; where it is no better than
    a coin there, no corrected figure is given.
    """
    before, after = ([s for s in side if s.target is None] for side in (before, after))
    asks = [[parts(target).items() <= s.asked.items() for s in after] for target in targets]
    shows = [[[parts(target).items() <= s.saw.items() for s in side] for target in targets] for side in (before, after)]
    at = [(t, i) for t, row in enumerate(asks) for i, hit in enumerate(row) if hit]
    was, now = ([side[t][i] for t, i in at] for side in shows)
    if not any(was):
        return {}
    found = {"ua_relative": relative_ua(was, now)}
    others = [shows[0][t][i] for t, row in enumerate(asks) for i, hit in enumerate(row) if not hit and after[i].asked]
    sensitivity = sum(was) / len(was)
    specificity = 1 - sum(others) / len(others) if others else 0.0
    if sensitivity + specificity > 1:
        found["ua_corrected"] = corrected_ua(rate([not n for n in now]), sensitivity, specificity)
    return found


def _first(shown: Shown) -> list[str]:
    """The attribute that an image is mainly about; empty where nothing is judged."""
    return list(shown.asked)[:1]


def became(shown: Sequence[Shown], targets: Sequence[Target]) -> dict[str, dict[str, int]]:
    """What the images that ask for each target show now, most frequent first."""
    own = seen(shown, "grid", "erased")
    return {label: replacements(own, attribute, label) for attribute, label in targets if attribute in own.asked}


def as_document(metrics: Mapping[str, Estimate]) -> dict[str, Any]:
    """Metrics as JSON has them: value, low, high (95 %) and n."""
    return {name: estimate.as_dict() for name, estimate in metrics.items()}
