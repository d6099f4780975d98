"""The page of a benchmark: from finished cells to the data that `bench_html` renders."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from excise.bench import tables
from excise.bench.tables import Row
from excise.concepts.concept import listed
from excise.evaluation.catalog import Metric, Prominence, interval, number
from excise.report import bench_attacks, bench_concepts, bench_plots
from excise.report.bench_html import BenchPage, Head, Name, Part, Plot, Table, TableCell, TableRow, render
from excise.report.bench_pairs import PairedTests
from excise.support.choices import written
from excise.support.counts import counted

if TYPE_CHECKING:
    from excise.bench.run import CellResult

CONTROLS = {
    "identity": "the model without an edit",
    "noise": "a destroyed model, which erases everything",
    "oracle": "a model never trained on the concept, which a perfect erasure would resemble",
}


@dataclass(frozen=True)
class About:
    """What the page says besides the results.

    Attributes:
        recipe: the text of the recipe. commands: (purpose, command line). versions: (package, version).
        sequences: by cell key, a mapping with `targets`, `matrix` (UA by step and target) and `rebound`, which takes
            the place of the one in the result.
    """

    name: str = "bench"
    date: str = ""
    recipe: str = ""
    commands: Sequence[tuple[str, str]] = ()
    versions: Sequence[tuple[str, str]] = ()
    sequences: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def write(results: Sequence[CellResult], out: Path, path: Path, about: About | None = None) -> Path:
    """Write the page of finished cells to `path`; their image paths are relative to `out`."""
    return render(page(results, out, about or About()), path)


def page(results: Sequence[CellResult], out: Path, about: About) -> BenchPage:
    """The data of the page. Methods are in the order of the cells; the others are tested against the first one.

    Args:
        results: cells of one or several protocols.
        out: the folder that the image paths of the cells are relative to.
    """
    by_protocol: dict[str, list[CellResult]] = {}
    for d in results:
        by_protocol.setdefault(d.result.hash, []).append(d)
    models = list(dict.fromkeys(d.cell.model for d in results))
    images = sum(len(d.result.shown) for d in results)
    return BenchPage(
        title=about.name,
        lead=_lead(results),
        summary=[
            ("protocol", ", ".join(dict.fromkeys(d.result.protocol for d in results))),
            ("model", ", ".join(models)),
            ("cells", f"{len(results)}, {counted(images, 'image')} judged"),
            *([("date", about.date)] if about.date else []),
        ],
        parts=[_part(f"p{i}", members, out, about) for i, members in enumerate(by_protocol.values())],
        recipe=about.recipe,
        commands=list(about.commands),
        versions=list(about.versions),
    )


def commands(results: Sequence[CellResult], first: str) -> list[tuple[str, str]]:
    """Return (purpose, command line) pairs to reproduce the page, given as `first`, and one of its cells."""
    lines = [("everything again; finished cells are reused", first)]
    cell = next((d.cell for d in results if not d.cell.method.control and d.cell.vocabulary), None)
    if cell is None:
        return lines
    model, folder = shlex.quote(cell.model), "runs/one-cell"
    concepts = " ".join(f"--concept {shlex.quote(c)}" for c in cell.concepts)
    settings = "".join(f" --set {shlex.quote(f'{k}={written(v)}')}" for k, v in cell.method.settings.items())
    preserve = "".join(f" --preserve {shlex.quote(p)}" for p in cell.preserve)
    return [
        *lines,
        (f"one cell alone, {cell.title}", f"excise erase --model {model} {concepts} --method "
         f"{shlex.quote(cell.method.name)} --vocabulary {shlex.quote(cell.vocabulary)}{preserve}{settings} "
         f"--seed {cell.seed} --out {folder}"),
        ("its evaluation", f"excise evaluate --model {model} --edit {folder}/edit.safetensors --protocol "
         f"{shlex.quote(cell.protocol)} {concepts} --out {folder}-judged"),
    ]  # fmt: skip


def _part(id: str, results: Sequence[CellResult], out: Path, about: About) -> Part:
    """The results of one protocol."""
    single = tables.rows([d.line() for d in results])
    averaged = tables.means(single)
    names = {d.cell.key: _name(row, single) for d, row in zip(results, single, strict=True)}
    groups: dict[tuple[str, tuple[str, ...]], list[CellResult]] = {}
    for d in results:
        groups.setdefault((d.cell.model, d.cell.concepts), []).append(d)
    tests = PairedTests(results)
    page_tables = [_table("Every concept", single, single, [tests.of_cell(d) for d in results], tests.label)]
    if any(row.cells > 1 for row in averaged):
        of_means = [tests.of_mean(row) for row in averaged]
        page_tables.insert(0, _table("Means over concepts", averaged, single, of_means, tests.label))
    attacked = bench_attacks.table(results, [_name(row, averaged) for row in single])
    if attacked:
        page_tables.append(attacked)
    return Part(
        id=id,
        title=results[0].result.protocol,
        tables=page_tables,
        notes=[*_notes(single, averaged, tests), *([bench_attacks.NOTE] if attacked else [])],
        plots=_plots(averaged, single),
        triangles=bench_attacks.triangles(averaged, [_name(row, single) for row in averaged]),
        concepts=[
            bench_concepts.concept(f"{id}-c{i}", members, out, names, about.sequences)
            for i, members in enumerate(groups.values())
        ],
        facts=_facts(results),
    )


def _table(caption: str, rows: Sequence[Row], single: Sequence[Row], tests: Sequence[TableCell], first: str) -> Table:
    """A table with one row for each of `rows`; the column of paired tests follows the main metrics."""
    columns = tables.columns(single)
    heads = [Head(m.label, m.explanation) for m in columns]
    cells = [[_cell(row, m) for m in columns] for row in rows]
    if any(t.sort for t in tests):
        main = [i for i, m in enumerate(columns, 1) if m.prominence == Prominence.MAIN]
        at = max(main, default=len(columns))
        meaning = "exact McNemar test on retained prompts; beneath, images right only here : right only there"
        heads.insert(at, Head(f"p against {first}", meaning))
        for row_cells, test in zip(cells, tests, strict=True):
            row_cells.insert(at, test)
    sets = len({r.concepts for r in single})
    named = zip(rows, cells, strict=True)
    return Table(caption, heads, [TableRow(_name(r, single), _concepts(r, sets), c) for r, c in named])


def _cell(row: Row, metric: Metric) -> TableCell:
    figure = row.figures.get(metric.key)
    if figure is None:
        return TableCell("–")
    details = [interval(figure, metric.unit), f"n {figure['n']:,.0f}"] if "low" in figure else []
    return TableCell(number(figure["value"], metric.unit), details, f"{figure['value']:.6g}")


def _name(row: Row, single: Sequence[Row]) -> Name:
    """The name of a row; model and seed are added beneath it where the page has several."""
    notes = [row.model] if len({r.model for r in single}) > 1 else []
    if row.seed is not None and len({r.seed for r in single}) > 1:
        notes.append(f"seed {row.seed}")
    return Name(row.method, row.control, ", ".join(notes))


def _concepts(row: Row, sets: int) -> str:
    if row.concepts:
        return listed(row.concepts)
    return f"all {sets}" if row.sets == sets > 1 else f"{row.sets} of {sets}"


def _plots(averaged: Sequence[Row], single: Sequence[Row]) -> list[Plot]:
    """The erase-retain scatter, with one mark for each method: the mean over its cells."""
    by_method: dict[tuple[str, str], list[tuple[tables.Figure, tables.Figure]]] = {}
    for row in single:
        if pair := bench_plots.axes(row.figures):
            by_method.setdefault((row.model, row.method), []).append(pair)
    marks = []
    for row in averaged:
        if pairs := by_method.get((row.model, row.method)):
            name = _name(row, single)
            label = name.text + (f" ({name.note})" if name.note else "")
            erase, retain = (tables.mean([pair[i] for pair in pairs]) for i in (0, 1))
            marks.append(bench_plots.Mark(label, bool(row.control), erase, retain))
    of_names = "acc_e" in single[0].figures
    x = "erase: 1 − Acc_e, per cent" if of_names else "erase: UA, per cent"
    y = "retain: Acc_r, per cent" if of_names else "retain: mean retain accuracy, per cent"
    return bench_plots.plots(marks, x, y)


def _lead(results: Sequence[CellResult]) -> list[str]:
    """What was compared, and how to read the page."""
    methods = list(dict.fromkeys(d.cell.method.title for d in results if not d.cell.method.control))
    controls = list(dict.fromkeys(d.cell.method.control for d in results if d.cell.method.control))
    sets = len({d.cell.concepts for d in results})
    what = f"{counted(len(methods), 'method')} ({', '.join(methods)})" if methods else "No method"
    lead = [
        f"{what} on {counted(sets, 'concept set')}, with the same prompts, seeds and judge.",
        "How to read it: erasing is easy; erasing and retaining the rest is not. In the chart, look for methods at the "
        "right (the target is gone) and at the top (the rest is still there). Beneath each value are its 95 % interval "
        "and n, the number of images. Where the intervals of two methods overlap widely, this run does not tell them "
        "apart.",
    ]
    if controls:
        lead.append(
            "Read the methods against the controls: " + "; ".join(f"{c}, {CONTROLS[c]}" for c in controls) + "."
        )
    return lead


def _notes(single: Sequence[Row], averaged: Sequence[Row], tests: PairedTests) -> list[str]:
    notes = ["Rates are in per cent; beneath each, its 95 % interval and the number of images."]
    if any(row.cells > 1 for row in averaged):
        notes.append(
            "A mean gives every concept set the same weight; its interval is combined from theirs (square-and-add). "
            "It holds for these concepts and says nothing about others."
        )
    if len({row.sets for row in averaged}) > 1:
        notes.append("Means over fewer concept sets (second column) are not directly comparable with the others.")
    if tests.count:
        notes.append(
            f"p: {counted(tests.count, 'comparison')} on this page, not corrected for their number. A small p means "
            "that there is a difference, not that the difference matters."
        )
    if any("kid" in row.figures for row in single):
        notes.append("KID values are comparable only if they come from the same feature network.")
    return notes


def _facts(results: Sequence[CellResult]) -> list[tuple[str, str]]:
    """All details of the protocol."""
    result = results[0].result
    plan = {k: v for k, v in result.protocol_summary.items() if k != "name"}
    return [
        ("protocol", result.protocol),
        ("hash", result.hash),
        *((key.replace("_", " "), _words(value)) for key, value in plan.items()),
        ("seed of an image", "fixed by the protocol, and the same for every method"),
        ("intervals", "Wilson score for rates, bootstrap for harmonic means, drift and FADE; 95 %"),
        (
            "retained prompts",
            "judged prompts that ask for no target; an image is right if the judge sees everything that the prompt "
            "asks for (in a protocol of names, the name)",
        ),
    ]


def _words(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{k}: {_words(v)}" for k, v in value.items()) or "none"
    if isinstance(value, (list, tuple)):
        return listed([str(v) for v in value], 12) or "none"
    return "none" if value is None else str(value)
