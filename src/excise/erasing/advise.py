"""How strong should an edit be? A sweep of a closed form's strength on calibration prompts, and the best of it."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import harmonic_mean
from typing import Any

from excise.concepts.concept import Concept, as_concepts
from excise.concepts.vocabulary import Vocabulary, guess_kind, naming_vocabulary, vocabulary_of
from excise.edits.edit import Edit
from excise.erasing.erase import Erasure, Naming, Origin, make_edit
from excise.errors import ConceptError, SettingError
from excise.families.built_in import is_built_in
from excise.families.load import as_family
from excise.methods import load_method
from excise.methods.base import Context
from excise.support.progress import Report, silent
from excise.support.selection import evenly
from excise.training.pictures import CANVAS_SAMPLING, SAMPLING
from excise.training.probes import Look, Probe
from excise.training.scorers import as_scorer

MOST = 40  # pictures of targets, and of what is kept
TIE = 0.01
FINER = 2  # values that are tried between those of a sweep, at the most


@dataclass(frozen=True)
class Point:
    """One strength: the value of the setting, and what the pictures show.

    Attributes:
        erased: target pictures that no longer show their target. retained: of those of what is kept that were right
            before, the share still right.
    """

    value: float
    erased: float
    retained: float

    @property
    def h(self) -> float:
        """Harmonic mean of both."""
        return harmonic_mean([self.erased, self.retained])


@dataclass(frozen=True)
class Advice:
    """The curve of a sweep, the value that was taken, and the edit of that value with the seconds of its making."""

    setting: str
    curve: list[Point]
    chosen: float
    judge: str
    edit: Edit
    seconds: Mapping[str, float] = field(default_factory=dict)


def advise(
    model: Any,
    concepts: Sequence[str | Concept],
    method: str = "speed",
    *,
    preserve: Sequence[str] = (),
    vocabulary: str | None = "auto",
    kind: str | None = None,
    judge: Any = None,
    seed: int = 0,
    states: Path | None = None,
    say: Report = silent,
    anchor: str | None = None,
    model_name: str | None = None,
    revision: str | None = None,
    **settings: Any,
) -> Advice:
    """Erase with every value of the method's own sweep, look at pictures, and take the value with the best balance.

    Neighbours of a sweep are a factor of three apart, so values between the best and its neighbours are tried as well.

    Text is encoded once for all. On the built-in models the prompts are not those an edit is made from, nor the judge
    the one whose verdict counts; elsewhere the prompts are those of the templates. They are no check of a policy.

    Args:
        judge: as in `excise.methods.base.Context`; the built-in models have their own.
        states: folder of text states to use and fill.
        settings: the method's own; not the one that is swept.

    Raises:
        ConceptError: nothing to look with, no target is ever seen, or nothing to keep that could be looked at.
        SettingError: the method has no sweep, or the swept setting is given.
    """
    family = as_family(model)
    found = [guess_kind(c, kind, naming_vocabulary(vocabulary, family)) for c in as_concepts(concepts, kind)]
    setting, values = _sweep(method, settings)
    built_in = is_built_in(family)
    scorer = as_scorer(judge, built_in, [*(c.name for c in found), *preserve])
    if scorer is None:
        raise ConceptError("a strength cannot be chosen without looking; give --judge, the folder of a CLIP model.")
    words = vocabulary_of(vocabulary, family, found)
    sampling = CANVAS_SAMPLING if built_in else SAMPLING
    look = Look(family, _probes(found, words, preserve), scorer, sampling, seed, pooled=True)
    if not any(right and p.role == "related" for right, p in zip(look.right, look.probes, strict=True)):
        raise ConceptError(
            f"{scorer.name} sees nothing of what is to be kept in what the untouched model draws of it, so no strength "
            "could be told from another. Name other things with --preserve, or give another judge."
        )
    curve: list[Point] = []
    with tempfile.TemporaryDirectory(prefix="excise-") as folder:
        naming, origin = Naming(preserve, vocabulary, kind, anchor), Origin(model_name, revision)
        context = Context(states=states or Path(folder))

        def make(value: float) -> Erasure:
            return make_edit(family, list(found), method, {**settings, setting: value}, naming, origin, seed, context)

        def tried(value: float) -> Point:
            say(f"trying {setting}, {value:g}", len(curve), len(values) + FINER)
            with make(value).edit.apply(family):
                rates = look.rates(look.draw())
            return Point(value, rates.erase, rates.related)

        for value in values:
            curve.append(tried(value))
        for value in between(curve):
            curve.append(tried(value))
        curve.sort(key=lambda p: p.value, reverse=values[0] > values[-1])
        say(f"trying {setting}", len(values) + FINER, len(values) + FINER)
        best = curve[knee(curve)]
        made = make(best.value)  # made once more: seven dense edits at once could be larger than the model
    told = {
        "setting": setting,
        "points": [{"value": p.value, "erased": p.erased, "retained": p.retained, "h": p.h} for p in curve],
        "chosen": best.value,
        "judge": scorer.name,
    }
    edit = made.edit
    record = edit.record.model_copy(update={"measured": {**edit.record.measured, "advice": told}})
    return Advice(setting, curve, best.value, scorer.name, replace(edit, record=record), made.seconds)


def knee(curve: Sequence[Point]) -> int:
    """The point with the largest harmonic mean; of those that tie the one that keeps more, then the later."""
    best = max(p.h for p in curve)
    tied = [i for i, p in enumerate(curve) if p.h >= best - TIE]
    return max(tied, key=lambda i: (curve[i].retained, i))


def between(curve: Sequence[Point]) -> list[float]:
    """Values between the best of a sweep and its neighbours: the geometric mean, or half where a neighbour is zero.

    >>> between([Point(0.0, 1.0, 0.0), Point(1.0, 1.0, 0.8), Point(4.0, 0.2, 1.0)])
    [0.5, 2.0]
    """
    best = knee(curve)
    here = curve[best].value
    beside = [curve[i].value for i in (best - 1, best + 1) if 0 <= i < len(curve)]
    return [float(f"{(here * other) ** 0.5 or max(here, other) / 2:.2g}") for other in beside]


def _sweep(method: str, settings: dict[str, Any]) -> tuple[str, tuple[float, ...]]:
    sweep = getattr(load_method(method).Config, "sweep", None)
    if sweep is None:
        raise SettingError(f"{method} has no strength to sweep; only closed forms have. Leave --advise out.")
    setting, values = sweep
    if setting in settings:
        raise SettingError(f"--advise sweeps '{setting}' itself; leave it out of --set, or leave --advise out.")
    return setting, values


def _probes(concepts: Sequence[Concept], words: Vocabulary, preserve: Sequence[str]) -> list[Probe]:
    """Up to forty pictures of targets, each concept in turn, and one of each of up to forty names that are kept."""
    some = evenly(concepts, MOST)
    each = max(1, MOST // len(some))
    probes = [Probe(p, c.name, "target") for c in some for p in evenly(words.calibration(c), each)]
    kept = words.others(concepts, preserve)
    if not kept:
        raise ConceptError("there is nothing to keep, so every strength would do; name something with --preserve.")
    kind = concepts[0].kind
    for i, name in enumerate(evenly(kept, MOST)):
        prompts = words.calibration(Concept(name, kind))
        probes.append(Probe(prompts[i % len(prompts)], name, "related"))
    return probes
