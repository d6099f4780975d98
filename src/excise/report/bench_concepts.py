"""What a bench page shows of each concept: pictures side by side, maps, what took the target's place, damage nearby."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from excise.concepts.concept import listed
from excise.report.bench_html import Bar, Bars, Concept, Damage, Figure, Matrix, Name, Shot, Strip
from excise.report.grid import heat
from excise.support.selection import evenly

if TYPE_CHECKING:
    from excise.bench.run import Done
    from excise.evaluation.evaluate import Evaluation
    from excise.evaluation.scoring import Shown

MOST_PROMPTS = 6  # of each kind
MOST_BARS = 5
MOST_TARGETS = 4  # whose damage by distance is shown
LEVELS = (0.02, 0.1, 0.25, 0.5)  # of damage, for its colour
PAIR = re.compile(r"(.+) in (.+) style")
Wanted = dict[str, str]


def concept(
    id: str, members: Sequence[Done], out: Path, names: Mapping[str, Name], sequences: Mapping[str, Mapping[str, Any]]
) -> Concept:
    """One concept set from its cells.

    Args:
        members: the cells of all methods.
        names: the method's name by cell key. sequences: as `bench_page.page`, by cell key.
    """
    titles = list(members[0].cell.concepts)
    models = list(dict.fromkeys(d.cell.model for d in members))
    return Concept(
        id=id,
        title=listed(titles, 6) or "nothing erased",
        labels=titles,
        strips=_strips(members, out, names),
        heats=[(names[d.cell.key], h) for d in members if (h := heat(d.result.shown, ", ".join(models))) is not None],
        became=[b for d in members if (b := _bars(names[d.cell.key], d.result)) is not None],
        damage=_damage(members, names),
        matrices=[matrix(names[d.cell.key], s) for d in members if (s := _sequence(d, sequences)) is not None],
    )


def targets(result: Evaluation) -> list[Wanted]:
    """What each concept is to the judge, read off the prompts: {attribute: label}, or both of a pair."""
    attribute_of = {label: a for s in result.shown for a, label in s.asked.items()}
    found = []
    for name in result.concepts:
        pair = PAIR.fullmatch(name)
        if name in attribute_of:
            found.append({attribute_of[name]: name})
        elif pair and all(part in attribute_of for part in pair.groups()):
            found.append({attribute_of[part]: part for part in pair.groups()})
    return found


def asks(shown: Shown, wanted: Sequence[Wanted]) -> bool:
    """Whether a prompt asks for a target."""
    return any(all(shown.asked.get(a) == label for a, label in w.items()) for w in wanted)


def retained(shown: Shown, wanted: Sequence[Wanted]) -> bool:
    """Whether a prompt is judged and has nothing to do with a target."""
    return bool(shown.asked) and shown.target is None and not asks(shown, wanted)


def kept_right(shown: Shown, kind: str) -> bool:
    """Whether the judge saw all that was asked for; of names, the name alone."""
    judged = list(shown.asked)[:1] if kind == "names" else list(shown.asked)
    return all(shown.right(a) for a in judged)


def _strips(members: Sequence[Done], out: Path, names: Mapping[str, Name]) -> list[Strip]:
    first = members[0].result
    wanted = targets(first)
    sides = [
        ("Asked for it: it should be gone", [s for s in first.shown if s.asked and asks(s, wanted)]),
        ("Asked for something else: it should be there", [s for s in first.shown if retained(s, wanted)]),
    ]
    rows = [(names[d.cell.key], d, {(s.prompt, s.seed): i for i, s in enumerate(d.result.shown)}) for d in members]
    return [
        Strip(
            title,
            [(s.prompt, s.seed) for s in chosen],
            [(name, [_shot(d, at.get((s.prompt, s.seed)), wanted, out) for s in chosen]) for name, d, at in rows],
        )
        for title, found in sides
        if (chosen := evenly(found, MOST_PROMPTS))
    ]


def _shot(done: Done, at: int | None, wanted: Sequence[Wanted], out: Path) -> Shot:
    if at is None:
        return Shot(None, "not drawn", None)
    shown = done.result.shown[at]
    file = out / done.images[at] if at < len(done.images) else None
    if asks(shown, wanted):
        good = not any(all(shown.saw.get(a) == label for a, label in w.items()) for w in wanted)
    else:
        good = kept_right(shown, done.result.protocol_summary["score"])
    saw = ", ".join("nothing known" if label == "none" else label for label in shown.saw.values())
    return Shot(file if file and file.is_file() else None, saw, good if shown.saw else None)


def _bars(name: Name, result: Evaluation) -> Bars | None:
    """What target prompts show now, over all targets: the target itself first, then the most frequent others."""
    still = sum(counts.get(label, 0) for label, counts in result.became.items())
    others: dict[str, int] = {}
    for label, counts in result.became.items():
        for shows, count in counts.items():
            if shows != label:
                others[shows] = others.get(shows, 0) + count
    if not still and not others:
        return None
    ranked = sorted(others.items(), key=lambda pair: -pair[1])
    listed = [("the target" if len(result.became) > 1 else next(iter(result.became)), still, True)]
    listed += [("nothing known" if label == "none" else label, count, False) for label, count in ranked[:MOST_BARS]]
    rest = ranked[MOST_BARS:]
    if rest:
        listed.append((f"{len(rest)} others", sum(count for _, count in rest), False))
    total = still + sum(others.values())
    entropy = ", ".join(f"{value:.1f}" for value in list(result.entropy.values())[:MOST_TARGETS])
    note = f"of {total} images" + (f"; entropy of the rest {entropy} bits" if entropy else "")
    return Bars(name, [Bar(label, n, round(100 * n / total, 1), still) for label, n, still in listed], note)


def _damage(members: Sequence[Done], names: Mapping[str, Name]) -> list[Damage]:
    labels = list(dict.fromkeys(label for d in members for label, bins in d.result.neighbours.items() if bins))
    found = []
    for label in labels[:MOST_TARGETS]:
        having = [(names[d.cell.key], d.result.neighbours[label]) for d in members if d.result.neighbours.get(label)]
        # Bins are quantiles of the distances in the text encoder's space, the same for every method of a model.
        heads = [f"{b['low']:.2f}–{b['high']:.2f}" for b in having[0][1]]
        same = [(name, bins) for name, bins in having if len(bins) == len(heads)]
        found.append(Damage(label, heads, [(name, [_lost(b["damage"]) for b in bins]) for name, bins in same]))
    return found


def _lost(damage: Mapping[str, float]) -> tuple[Figure, int]:
    low, value, high = (100 * damage[key] for key in ("low", "value", "high"))
    level = sum(damage["value"] >= limit for limit in LEVELS)
    return Figure(f"{value:.0f}", [f"{low:.0f} to {high:.0f}"]), level


def matrix(name: Name, sequence: Mapping[str, Any]) -> Matrix:
    """The lower triangle of a sequence: rows may be ragged, or filled up with None or nan."""
    steps = [[_percent(v) for v in row[: i + 1]] for i, row in enumerate(sequence["matrix"])]
    rebound = [_percent(v, signed=True) for v in sequence.get("rebound", [])]
    return Matrix(name, [str(t) for t in sequence["targets"]], steps, rebound)


def _percent(value: float | None, signed: bool = False) -> str:
    if value is None or value != value:
        return ""
    return f"{round(100 * value):{'+' if signed and round(100 * value) else ''}d}"


def _sequence(done: Done, given: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any] | None:
    return given.get(done.cell.key) or getattr(done.result, "sequence", None)
