"""The sections of a bench page on each concept: images, maps, what target prompts show now, damage, sequences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from excise.concepts.concept import listed
from excise.protocols.base import Target, asks, parts
from excise.report.bench_html import Bar, Bars, Concept, Damage, Matrix, Name, Shot, Strip, TableCell
from excise.report.grid import heat
from excise.support.selection import evenly

if TYPE_CHECKING:
    from excise.bench.run import CellResult
    from excise.evaluation.result import Evaluation
    from excise.evaluation.scoring import Shown

MOST_PROMPTS = 6  # in each strip
MOST_BARS = 5
MOST_TARGETS = 4  # whose damage by distance is shown
LEVELS = (0.02, 0.1, 0.25, 0.5)  # damage at which the colour changes


def concept(
    id: str,
    members: Sequence[CellResult],
    out: Path,
    names: Mapping[str, Name],
    sequences: Mapping[str, Mapping[str, Any]],
) -> Concept:
    """The section of one concept set.

    Args:
        members: the cells of all methods on it. out: the folder that their image paths are relative to.
        names: the method's name by cell key. sequences: as in `bench_page.About`.
    """
    labels = list(members[0].cell.concepts)
    models = ", ".join(dict.fromkeys(d.cell.model for d in members))
    named = [(names[d.cell.key], d) for d in members]
    return Concept(
        id=id,
        title=listed(labels, 6) or "nothing erased",
        labels=labels,
        strips=_strips(named, out),
        heats=[(name, h) for name, d in named if (h := heat(d.result.shown, models)) is not None],
        became=[bars for name, d in named if (bars := _bars(name, d.result)) is not None],
        damage=_damage(named),
        matrices=[
            matrix(name, sequence)
            for name, d in named
            if (sequence := sequences.get(d.cell.key) or d.result.sequence) is not None
        ],
    )


def targets(result: Evaluation) -> list[Target]:
    """The targets of a finished evaluation, from its concepts and prompts; the protocol itself is not needed."""
    attribute_of = {label: attribute for s in result.shown for attribute, label in s.asked.items()}
    resolved: list[Target] = []
    for name in result.concepts:
        if name in attribute_of:
            resolved.append((attribute_of[name], name))
        elif " in " in name and all(label in attribute_of for label in parts(("pair", name)).values()):
            resolved.append(("pair", name))
    return resolved


def is_retained(shown: Shown, targets: Sequence[Target]) -> bool:
    """Whether an image is judged and its prompt has nothing to do with a target."""
    return bool(shown.asked) and shown.target is None and not asks(shown.asked, targets)


def is_right(shown: Shown, score: str) -> bool:
    """Whether the judge saw everything that the prompt asks for; in a protocol of names, the name."""
    attributes = list(shown.asked)[:1] if score == "names" else list(shown.asked)
    return all(shown.right(a) for a in attributes)


def _strips(named: Sequence[tuple[Name, CellResult]], out: Path) -> list[Strip]:
    """Images of target prompts and of other prompts; the prompts are those of the first cell."""
    first = named[0][1].result
    wanted = targets(first)
    sides = [
        ("The prompt asks for the target: it should be gone", [s for s in first.shown if asks(s.asked, wanted)]),
        ("The prompt asks for something else: it should be there", [s for s in first.shown if is_retained(s, wanted)]),
    ]
    rows = [(name, d, {(s.prompt, s.seed): i for i, s in enumerate(d.result.shown)}) for name, d in named]
    return [
        Strip(
            title,
            [(s.prompt, s.seed) for s in chosen],
            [(name, [_shot(d, at.get((s.prompt, s.seed)), wanted, out) for s in chosen]) for name, d, at in rows],
        )
        for title, candidates in sides
        if (chosen := evenly(candidates, MOST_PROMPTS))
    ]


def _shot(cell: CellResult, index: int | None, targets: Sequence[Target], out: Path) -> Shot:
    """One image of a cell; `index` is None where the cell has no image of the prompt and seed."""
    if index is None:
        return Shot(None, "not drawn", None)
    shown = cell.result.shown[index]
    file = out / cell.images[index] if index < len(cell.images) else None
    if asks(shown.asked, targets):
        good = not asks(shown.saw, targets)
    else:
        good = is_right(shown, cell.result.protocol_summary["score"])
    saw = ", ".join(map(_label, shown.saw.values()))
    return Shot(file if file and file.is_file() else None, saw, good if shown.saw else None)


def _bars(name: Name, result: Evaluation) -> Bars | None:
    """What target prompts show now, over all targets: the target itself first, then the most frequent others."""
    survived = sum(counts.get(label, 0) for label, counts in result.became.items())
    others: dict[str, int] = {}
    for target, counts in result.became.items():
        for label, count in counts.items():
            if label != target:
                others[label] = others.get(label, 0) + count
    total = survived + sum(others.values())
    if not total:
        return None
    ranked = sorted(others.items(), key=lambda pair: -pair[1])
    title = "the target" if len(result.became) > 1 else next(iter(result.became))
    bars = [(title, survived, True), *((_label(label), count, False) for label, count in ranked[:MOST_BARS])]
    if rest := ranked[MOST_BARS:]:
        bars.append((f"{len(rest)} others", sum(count for _, count in rest), False))
    entropy = ", ".join(f"{value:.1f}" for value in list(result.entropy.values())[:MOST_TARGETS])
    note = f"of {total} images" + (f"; entropy of the other labels {entropy} bits" if entropy else "")
    return Bars(name, [Bar(label, n, round(100 * n / total, 1), hit) for label, n, hit in bars], note)


def _label(label: str) -> str:
    return "no known label" if label == "none" else label


def _damage(named: Sequence[tuple[Name, CellResult]]) -> list[Damage]:
    """Damage by distance to each target. Bins are quantiles of text distances, the same for all methods of a model."""
    labels = list(dict.fromkeys(label for _, d in named for label, bins in d.result.neighbours.items() if bins))
    tables = []
    for label in labels[:MOST_TARGETS]:
        measured = [(name, d.result.neighbours[label]) for name, d in named if d.result.neighbours.get(label)]
        heads = [f"{b['low']:.2f}–{b['high']:.2f}" for b in measured[0][1]]
        comparable = [(name, bins) for name, bins in measured if len(bins) == len(heads)]
        tables.append(Damage(label, heads, [(name, [_lost(b["damage"]) for b in bins]) for name, bins in comparable]))
    return tables


def _lost(damage: Mapping[str, float]) -> tuple[TableCell, int]:
    """The points lost in one bin, and the level of the cell's colour."""
    low, value, high = (100 * damage[key] for key in ("low", "value", "high"))
    level = sum(damage["value"] >= limit for limit in LEVELS)
    return TableCell(f"{value:.0f}", [f"{low:.0f} to {high:.0f}"]), level


def matrix(name: Name, sequence: Mapping[str, Any]) -> Matrix:
    """The lower triangle of a sequence; rows may be ragged, or padded with None or nan."""
    steps = [[_percent(v) for v in row[: i + 1]] for i, row in enumerate(sequence["matrix"])]
    rebound = [_percent(v, signed=True) for v in sequence.get("rebound", [])]
    return Matrix(name, [str(t) for t in sequence["targets"]], steps, rebound)


def _percent(value: float | None, signed: bool = False) -> str:
    if value is None or value != value:
        return ""
    return f"{round(100 * value):{'+' if signed and round(100 * value) else ''}d}"
