"""A bench as one page: from finished cells to what `bench_html` shows."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from excise.bench import tables
from excise.bench.tables import Row
from excise.concepts.concept import listed
from excise.report import bench_attacks, bench_concepts, bench_plots
from excise.report.bench_html import BenchPage, Figure, Head, Line, Name, Part, Table, render
from excise.report.bench_pairs import Paired, control

if TYPE_CHECKING:
    from excise.bench.run import Done

MAIN = ("ua", "ira", "cra", "h", "acc_e", "acc_r", "h_o", "sc", "oc", "up")
CONTROLS = {
    "identity": "no edit at all: what the untouched model scores",
    "noise": "a destroyed model: what destruction scores",
    "oracle": "a model that never saw the concept: what a perfect erasure would come close to",
}


@dataclass(frozen=True)
class About:
    """What the page says beside the results.

    Attributes:
        recipe: its text. commands: (what, line) pairs. versions: (package, version) pairs.
        sequences: by cell key, `targets`, `matrix` (UA by step and target) and `rebound`.
    """

    name: str = "bench"
    date: str = ""
    recipe: str = ""
    commands: Sequence[tuple[str, str]] = ()
    versions: Sequence[tuple[str, str]] = ()
    sequences: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def write(done: Sequence[Done], out: Path, path: Path, about: About | None = None) -> Path:
    """Write the page of finished cells to `path`; their images lie in `out`."""
    return render(page(done, out, about or About()), path)


def page(done: Sequence[Done], out: Path, about: About) -> BenchPage:
    """Everything the page shows. Methods stand in the order of the cells; the first is what others are tested against.

    Args:
        done: of one protocol or several.
        out: the folder that `images` of the cells are relative to.
    """
    by_protocol: dict[str, list[Done]] = {}
    for d in done:
        by_protocol.setdefault(d.result.hash, []).append(d)
    models = list(dict.fromkeys(d.cell.model for d in done))
    images = sum(len(d.result.shown) for d in done)
    return BenchPage(
        title=about.name,
        lead=_lead(done),
        summary=[
            ("protocol", ", ".join(dict.fromkeys(d.result.protocol for d in done))),
            ("model", ", ".join(models)),
            ("cells", f"{len(done)}, {images:,} images judged"),
            *([("date", about.date)] if about.date else []),
        ],
        parts=[_part(f"p{i}", members, out, about) for i, members in enumerate(by_protocol.values())],
        recipe=about.recipe,
        commands=list(about.commands),
        versions=list(about.versions),
    )


def commands(done: Sequence[Done], first: str) -> list[tuple[str, str]]:
    """The line that makes the page again, and the lines that make one of its cells by hand."""
    lines = [("everything again; what is finished already is kept", first)]
    cell = next((d.cell for d in done if not control(d) and d.cell.vocabulary), None)
    if cell is None:
        return lines
    model, folder = shlex.quote(cell.model), "runs/one-cell"
    concepts = " ".join(f"--concept {shlex.quote(c)}" for c in cell.concepts)
    settings = "".join(f" --set {shlex.quote(f'{k}={v}')}" for k, v in cell.method.settings.items())
    kept = "".join(f" --preserve {shlex.quote(p)}" for p in cell.preserve)
    return [
        *lines,
        (f"one cell by hand, {cell.title}", f"excise erase --model {model} {concepts} --method "
         f"{shlex.quote(cell.method.name)} --vocabulary {shlex.quote(cell.vocabulary)}{kept}{settings} "
         f"--seed {cell.seed} --out {folder}"),
        ("and judged", f"excise evaluate --model {model} --edit {folder}/edit.safetensors --protocol "
         f"{shlex.quote(cell.protocol)} {concepts} --out {folder}-judged"),
    ]  # fmt: skip


def _part(id: str, done: Sequence[Done], out: Path, about: About) -> Part:
    single = tables.rows([d.line() for d in done])
    averaged = tables.means(single)
    names = {d.cell.key: _name(row, single) for d, row in zip(done, single, strict=True)}
    groups: dict[tuple[str, tuple[str, ...]], list[Done]] = {}
    for d in done:
        groups.setdefault((d.cell.model, d.cell.concepts), []).append(d)
    tests = Paired(done)
    found = [_table("Every concept", single, single, [tests.one(d) for d in done], tests.label)]
    if any(row.cells > 1 for row in averaged):
        pooled = [tests.pooled(r) for r in averaged]
        found.insert(0, _table("Means over concepts", averaged, single, pooled, tests.label))
    attacked = bench_attacks.table(done, [_name(row, averaged) for row in single])
    if attacked:
        found.append(attacked)
    return Part(
        id=id,
        title=done[0].result.protocol,
        tables=found,
        notes=[*_notes(single, averaged, tests), *([bench_attacks.NOTE] if attacked else [])],
        plots=_plots(averaged, single),
        triangles=bench_attacks.triangles(averaged, [_name(row, single) for row in averaged]),
        concepts=[
            bench_concepts.concept(f"{id}-c{i}", members, out, names, about.sequences)
            for i, members in enumerate(groups.values())
        ],
        facts=_facts(done),
    )


def _table(caption: str, rows: Sequence[Row], single: Sequence[Row], tests: Sequence[Figure], first: str) -> Table:
    """Rows as lines; the paired test stands behind the main measures."""
    columns = tables.columns(single)
    heads = [Head(c.label, c.meaning) for c in columns]
    figures = [[_figure(row, c) for c in columns] for row in rows]
    if any(t.sort for t in tests):
        at = max((i for i, c in enumerate(columns, 1) if c.key in MAIN), default=len(columns))
        meaning = "exact McNemar test on retained prompts; beneath, images right here alone : right there alone"
        heads.insert(at, Head(f"p against {first}", meaning))
        for line, test in zip(figures, tests, strict=True):
            line.insert(at, test)
    sets = len({r.concepts for r in single})
    lines = [Line(_name(r, single), _concepts(r, sets), line) for r, line in zip(rows, figures, strict=True)]
    return Table(caption, heads, lines)


def _figure(row: Row, column: tables.Column) -> Figure:
    found = row.figures.get(column.key)
    if found is None:
        return Figure("–")
    beneath = [tables.interval(found, column.kind), f"n {found['n']:,.0f}"] if "low" in found else []
    return Figure(tables.number(found["value"], column.kind), beneath, f"{found['value']:.6g}")


def _name(row: Row, single: Sequence[Row]) -> Name:
    """What a row is called; model and seed stand beneath where there are several."""
    notes = [row.model] if len({r.model for r in single}) > 1 else []
    if row.seed is not None and len({r.seed for r in single}) > 1:
        notes.append(f"seed {row.seed}")
    return Name(row.method, row.control, ", ".join(notes))


def _concepts(row: Row, sets: int) -> str:
    if row.concepts:
        return listed(row.concepts)
    return f"all {sets}" if row.sets == sets > 1 else f"{row.sets} of {sets}"


def _plots(averaged: Sequence[Row], single: Sequence[Row]) -> list[Any]:
    by_method: dict[tuple[str, str], list[Any]] = {}
    for row in single:
        if found := bench_plots.axes(row.figures):
            by_method.setdefault((row.model, row.method), []).append(found)
    marks = []
    for row in averaged:
        if pairs := by_method.get((row.model, row.method)):
            name = _name(row, single)
            label = name.text + (f" ({name.note})" if name.note else "")
            erase, retain = (tables.mean([pair[i] for pair in pairs]) for i in (0, 1))
            marks.append(bench_plots.Mark(label, bool(row.control), erase, retain))
    names = "acc_e" in single[0].figures
    x = "erase: 1 − Acc_e, per cent" if names else "erase: UA, per cent"
    y = "retain: Acc_r, per cent" if names else "retain: mean of what is kept, per cent"
    return bench_plots.plots(marks, x, y)


def _lead(done: Sequence[Done]) -> list[str]:
    methods = list(dict.fromkeys(d.cell.method.title for d in done if not control(d)))
    sets = len({d.cell.concepts for d in done})
    controls = list(dict.fromkeys(control(d) for d in done if control(d)))
    what = f"{_count(len(methods), 'method')} ({', '.join(methods)})" if methods else "No method"
    return [
        f"{what} on {_count(sets, 'concept set')}, on the same prompts and seeds, seen by the same judge.",
        "How to read it: to erase is easy, to erase and keep the rest is not. In the chart, look for methods far right "
        "(the target is gone) and far up (the rest is still there). Under every figure stand its 95 % interval "
        "and n, the number of images; where intervals overlap widely, this run does not tell two methods apart.",
        *(
            ["Controls are what the methods are read against: "
             + "; ".join(f"{c}, {CONTROLS[c]}" for c in controls) + "."] if controls else []
        ),
    ]  # fmt: skip


def _notes(single: Sequence[Row], averaged: Sequence[Row], tests: Paired) -> list[str]:
    notes = ["Rates in per cent; beneath, the 95 % interval and the number of images."]
    if any(row.cells > 1 for row in averaged):
        notes.append(
            "A mean counts every concept set the same; its interval is put together from theirs (square and add). It "
            "speaks of these concepts, not of others."
        )
    if len({row.sets for row in averaged}) > 1:
        notes.append("Means over fewer concept sets (second column) cannot be set beside the others directly.")
    if tests.count:
        notes.append(
            f"p: {_count(tests.count, 'comparison')} on this page, none corrected for the number; a small p says that "
            "there is a difference, not that it matters."
        )
    if any("kid" in row.figures for row in single):
        notes.append("KID compares only values of the same features.")
    return notes


def _facts(done: Sequence[Done]) -> list[tuple[str, str]]:
    """The protocol in full."""
    result = done[0].result
    plan = {k: v for k, v in result.protocol_summary.items() if k != "name"}
    return [
        ("protocol", result.protocol),
        ("hash", result.hash),
        *((key.replace("_", " "), _words(value)) for key, value in plan.items()),
        ("seed of an image", "fixed by the protocol, the same for every method"),
        ("intervals", "Wilson score for rates, bootstrap for harmonic means, drift and FADE; 95 %"),
        (
            "retained prompts",
            "judged prompts that ask for no target; right when all that was asked for is seen (of names, the name)",
        ),
    ]


def _words(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{k}: {_words(v)}" for k, v in value.items()) or "none"
    if isinstance(value, (list, tuple)):
        return listed([str(v) for v in value], 12) or "none"
    return "none" if value is None else str(value)


def _count(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"
