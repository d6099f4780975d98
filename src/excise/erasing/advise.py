"""Advice: try the strengths of a closed form on calibration prompts, and take the one with the best balance."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import harmonic_mean
from typing import Any

from excise.concepts.concept import Concept, as_concepts
from excise.concepts.vocabulary import Vocabulary, guess_kind, naming_vocabulary, vocabulary_of
from excise.edits.edit import Edit
from excise.erasing.erase import Erasure, Naming, Origin, make_edit
from excise.errors import ConceptError, SettingError
from excise.families.base import Family
from excise.families.built_in import is_built_in
from excise.families.load import as_family
from excise.judges.scored import check_knows
from excise.methods import load_method
from excise.methods.base import Context
from excise.methods.fitting import check_fits
from excise.support.display import Card, Showing
from excise.support.progress import Report, part_of
from excise.support.selection import evenly
from excise.training.pictures import CANVAS_SAMPLING, SAMPLING
from excise.training.probes import Preview, Probe
from excise.training.scorers import as_scorer

MAX_PICTURES = 40  # of targets, and of retained names
TIE = 0.01  # harmonic means that differ by no more than this are equal
REFINEMENTS = 2  # values tried between those of a sweep, at most


@dataclass(frozen=True)
class Point:
    """One strength, and what pictures show under it.

    Attributes:
        value: the value of the swept setting.
        erased: share of the target pictures that no longer show their target.
        retained: share of the pictures of retained names, of those that were right before, that are still right.
    """

    value: float
    erased: float
    retained: float

    @property
    def h(self) -> float:
        """Harmonic mean of both shares."""
        return harmonic_mean([self.erased, self.retained])


@dataclass(frozen=True, repr=False)
class Advice(Showing):
    """The result of a sweep.

    Attributes:
        setting: the setting that was swept.
        curve: every value that was tried, harshest first.
        chosen: the value that was taken.
        judge: name of the judge.
        edit: the edit with that value.
        seconds: durations of making it, by stage.
    """

    setting: str
    curve: list[Point]
    chosen: float
    judge: str
    edit: Edit
    seconds: Mapping[str, float] = field(default_factory=dict)

    def card(self) -> Card:
        """What the advice shows of itself: the values tried, and the edit."""
        rows = [(f"{p.value:g}", f"{p.erased:.0%}", f"{p.retained:.0%}", f"{p.h:.3f}") for p in self.curve]
        tried = f"{len(rows)} values, judged by {self.judge}"
        facts = [("tried", tried), *self.edit.card().facts]
        title = f"Advice: {self.setting}={self.chosen:g} for {self.edit.card().title.removeprefix('Edit: ')}"
        return Card(title, facts, (self.setting, "erased", "retained", "harmonic mean"), rows)


def advise(
    model: Any,
    concepts: Sequence[str | Concept],
    method: str = "speed",
    *,
    preserve: Sequence[str] = (),
    vocabulary: str | None = "auto",
    kind: str | None = None,
    anchor: str | None = None,
    seed: int = 0,
    model_name: str | None = None,
    revision: str | None = None,
    context: Context | None = None,
    **settings: Any,
) -> Advice:
    """Erase with every value of the method's sweep, judge pictures, and take the value with the best balance.

    The values of a sweep are about a factor of three apart, so values next to the best one are tried as well. Text is
    encoded once. On the built-in models the prompts differ from those that the edit is made from and from those of the
    tests, and so does the judge; on other models the prompts are the templates. They do not verify a policy.

    Args:
        model, concepts, method, preserve, vocabulary, kind, anchor, seed, model_name, revision: as in `erase`.
        context: its judge decides (built-in models have one), its folder of text states is used and filled.
        settings: the settings of the method, without the one that is swept.

    Raises:
        ConceptError: there is no judge, it sees no target, or there is no retained name that it sees.
        SettingError: the method has no sweep, or the swept setting is given.
    """
    naming, origin = Naming(preserve, vocabulary, kind, anchor), Origin(model_name, revision)
    return find_strength(model, concepts, method, settings, naming, origin, seed, context)


def find_strength(
    model: Any,
    concepts: Sequence[str | Concept],
    method: str,
    settings: Mapping[str, Any],
    naming: Naming | None = None,
    origin: Origin | None = None,
    seed: int = 0,
    context: Context | None = None,
) -> Advice:
    """Advise with the arguments that `make_edit` takes."""
    naming, context = naming or Naming(), context or Context()
    family = as_family(model)
    names_from = naming_vocabulary(naming.vocabulary, family)
    targets = [guess_kind(c, naming.kind, names_from) for c in as_concepts(concepts, naming.kind)]
    setting, values = _sweep(method, settings)
    check_fits(method, family.name, family.provides)
    preview = _preview(family, targets, naming, context, seed)
    with tempfile.TemporaryDirectory(prefix="excise-") as folder:
        encoded_once = Context(states=context.states or Path(folder))

        def make(value: float) -> Erasure:
            swept = {**settings, setting: value}
            return make_edit(family, list(targets), method, swept, naming, origin, seed, encoded_once)

        curve = _curve(family, make, setting, values, preview, context.say)
        best = curve[knee(curve)]
        # Made again, because seven dense edits at once could be larger than the model.
        erasure = make(best.value)
    evidence = {
        "setting": setting,
        "points": [{"value": p.value, "erased": p.erased, "retained": p.retained, "h": p.h} for p in curve],
        "chosen": best.value,
        "judge": preview.scorer.name,
    }
    record = erasure.edit.record
    record = record.model_copy(update={"measured": {**record.measured, "advice": evidence}})
    edit = replace(erasure.edit, record=record)
    return Advice(setting, curve, best.value, preview.scorer.name, edit, erasure.seconds)


def knee(curve: Sequence[Point]) -> int:
    """Index of the point with the largest harmonic mean; of ties the one that retains more, then the later one."""
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
    neighbours = [curve[i].value for i in (best - 1, best + 1) if 0 <= i < len(curve)]
    return [float(f"{(here * other) ** 0.5 or max(here, other) / 2:.2g}") for other in neighbours]


def _curve(
    family: Family,
    make: Callable[[float], Erasure],
    setting: str,
    values: Sequence[float],
    preview: Preview,
    say: Report,
) -> list[Point]:
    """Measure every value of a sweep and those next to the best; the points are in the order of the sweep."""
    curve: list[Point] = []
    total = len(values) + REFINEMENTS

    def measure(value: float) -> None:
        report = part_of(say, f"trying {setting}, {value:g}", len(curve), total)
        with make(value).edit.apply(family):
            rates = preview.rates(preview.draw(report))
        curve.append(Point(value, rates.erase, rates.related))

    for value in values:
        measure(value)
    for value in between(curve):
        measure(value)
    say(f"trying {setting}", total, total)
    return sorted(curve, key=lambda p: p.value, reverse=values[0] > values[-1])


def _sweep(method: str, settings: Mapping[str, Any]) -> tuple[str, tuple[float, ...]]:
    """The sweep of a method (raises SettingError: it has none, or the swept setting is given)."""
    sweep = load_method(method).Config.sweep
    if sweep is None:
        raise SettingError(f"{method} has no strength to sweep; only closed forms have. Leave --advise out.")
    if sweep[0] in settings:
        raise SettingError(f"--advise sweeps '{sweep[0]}' itself; leave it out of --set, or leave --advise out.")
    return sweep


def _preview(family: Family, targets: Sequence[Concept], naming: Naming, context: Context, seed: int) -> Preview:
    """Calibration pictures of the untouched model, judged (raises ConceptError: strengths could not be told apart)."""
    built_in = is_built_in(family)
    scorer = as_scorer(context.judge, built_in, [*(c.name for c in targets), *naming.preserve])
    check_knows(scorer, [c.name for c in targets])
    if scorer is None:
        raise ConceptError("a strength cannot be chosen without looking; give --judge, the folder of a CLIP model.")
    words = vocabulary_of(naming.vocabulary, family, targets)
    probes = _probes(targets, words, naming.preserve)
    sampling = replace(CANVAS_SAMPLING if built_in else SAMPLING, say=context.say)
    preview = Preview(family, probes, scorer, sampling, seed, pooled=True)
    if not any(right and p.role == "related" for right, p in zip(preview.right, preview.probes, strict=True)):
        raise ConceptError(
            f"{scorer.name} sees nothing of what is to be kept in what the untouched model draws of it, so no strength "
            "could be told from another. Name other things with --preserve, or give another judge."
        )
    return preview


def _probes(concepts: Sequence[Concept], words: Vocabulary, preserve: Sequence[str]) -> list[Probe]:
    """Up to MAX_PICTURES prompts of targets, each concept in turn, and one of each of as many retained names."""
    targets = evenly(concepts, MAX_PICTURES)
    per_target = max(1, MAX_PICTURES // len(targets))
    probes = [Probe(p, c.name, "target") for c in targets for p in evenly(words.calibration(c), per_target)]
    retained_names = words.others(concepts, preserve)
    if not retained_names:
        raise ConceptError("there is nothing to keep, so every strength would do; name something with --preserve.")
    kind = concepts[0].kind
    for i, name in enumerate(evenly(retained_names, MAX_PICTURES)):
        prompts = words.calibration(Concept(name, kind))
        probes.append(Probe(prompts[i % len(prompts)], name, "related"))
    return probes
