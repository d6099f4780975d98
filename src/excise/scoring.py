"""From judged images to metrics: one function for each kind of protocol. No model and no image is touched here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict

from excise.judges.base import NONE
from excise.metrics.rates import Estimate, rate
from excise.metrics.unlearning import Seen, replacements, unlearning
from excise.protocols.base import Target

Metrics = dict[str, Estimate]


class Shown(BaseModel):
    """One image: what was asked for, what the judge and the second judge saw, by attribute."""

    model_config = ConfigDict(frozen=True)

    group: str
    prompt: str
    seed: int
    asked: dict[str, str]
    saw: dict[str, str]
    second: dict[str, str] = {}
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


SCORES: dict[str, Callable[[Sequence[Shown], Sequence[Target]], Metrics]] = {"grid": grid, "aliases": aliases}


def score(kind: str, shown: Sequence[Shown], targets: Sequence[Target]) -> Metrics:
    """Every metric the shown images yield. Also serves to look at an untouched model through a target's eyes."""
    judged = [s for s in shown if s.asked]
    found: Metrics = {}
    if judged:
        found["abstain"] = rate([s.saw[a] == NONE for s in judged for a in list(s.asked)[:1]])
        if any(s.second for s in judged):
            found["judges_disagree"] = rate([s.saw[a] != s.second[a] for s in judged for a in list(s.asked)[:1]])
    return found | SCORES[kind](shown, targets)


def became(shown: Sequence[Shown], targets: Sequence[Target]) -> dict[str, dict[str, int]]:
    """What the images that ask for each target show now, most frequent first."""
    own = seen(shown, "grid", "erased")
    return {label: replacements(own, attribute, label) for attribute, label in targets if attribute in own.asked}


def as_document(metrics: Mapping[str, Estimate]) -> dict[str, Any]:
    """Metrics as JSON has them: value, low, high (95 %) and n."""
    return {name: estimate.as_dict() for name, estimate in metrics.items()}
