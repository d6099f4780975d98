"""The page of deletions one after another: each concept by step, what is left of other names, what came back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from excise.bench.sequence_result import GONE, STAYED, Figure, SequenceResult, verdicts
from excise.evaluation.catalog import interval, quantity
from excise.report.curves import Chart, chart
from excise.report.html import Banner
from excise.support.counts import counted
from excise.support.files import write_text

LEVELS = (0.05, 0.25, 0.5, 0.75)  # shares from which a cell has the next colour


@dataclass(frozen=True)
class Cell:
    """A cell of the table: its text, its interval, its colour level (0 to 4), and whether the concept went here."""

    text: str
    note: str = ""
    level: int = 0
    own: bool = False


@dataclass(frozen=True)
class Row:
    """A row of a table: its head and its cells; a cell of a concept that is not deleted yet is None."""

    head: str
    cells: list[Cell | None]


@dataclass(frozen=True)
class SequencePage:
    """Everything that the page shows.

    Attributes:
        table: a row for the untouched model, one a step, and one for the rebound.
        left: by step, what is gone and what is left.
        facts: names and values on how the figures came about.
    """

    title: str
    lead: str
    banners: list[Banner]
    concepts: list[str]
    table: list[Row]
    left: list[Row]
    charts: list[Chart]
    facts: list[tuple[str, str]]


def write_sequence_page(result: SequenceResult, path: Path) -> Path:
    """Write the page, atomically; all names and texts in it are escaped."""
    environment = Environment(
        loader=PackageLoader("excise.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    write_text(path, environment.get_template("sequence.html.j2").render(page=page_of(result)))
    return path


def page_of(result: SequenceResult) -> SequencePage:
    """Return what the page of a result shows."""
    names = result.concepts
    table = [Row("untouched", [_share(result.untouched[n]) for n in names])]
    for step in result.steps:
        cells = [_share(step.shows[n], own=n == step.concept) if n in step.shows else None for n in names]
        table.append(Row(f"{step.step}: {step.concept}", cells))
    table.append(Row("rebound", [_change(result.rebound[n]) for n in names]))
    how = "each an edit on top of the earlier ones" if result.stacked else "at each step one edit of all so far"
    return SequencePage(
        f"{counted(len(names), 'deletion')} from {result.model}",
        f"Deleted one after another with {result.method}, {how}; after each step the concepts deleted so far and the "
        "other names are drawn again with the same prompts and seeds.",
        [Banner(text, "warn" if good is None else "good" if good else "bad") for text, good in verdicts(result)],
        names,
        table,
        _left(result),
        [_curve(result)],
        _facts(result),
    )


def _left(result: SequenceResult) -> list[Row]:
    """One row a step: what is gone of all concepts so far, what is left of other names, and how much they drift."""
    rows = []
    for step in result.steps:
        figures = (step.gone, step.retained, step.right)
        cells: list[Cell | None] = [Cell(*_texts(f)) if f else Cell("–") for f in figures]
        cells.append(Cell(quantity(step.drift["value"], "number"), interval(step.drift, "number")))
        rows.append(Row(f"{step.step}: {step.concept}", cells))
    return rows


def _curve(result: SequenceResult) -> Chart:
    """What is gone and what is left by step, with the ends of the interval of what is left."""
    steps = [s.step for s in result.steps]

    def line(figures: list[Figure | None], key: str) -> list[float]:
        return [f[key] if f else float("nan") for f in figures]

    gone, retained = [s.gone for s in result.steps], [s.retained for s in result.steps]
    lines = {
        "gone, of all concepts deleted so far": line(gone, "value"),
        "left of other names": line(retained, "value"),
        "95 % interval of what is left, lower end": line(retained, "low"),
        "upper end": line(retained, "high"),
    }
    at = result.collapse.proven if result.collapse else None
    title = "What is gone and what is left after each deletion"
    return chart(title, steps, lines, 1.0, at, [str(s) for s in steps], chosen_is="the collapse")


def _facts(result: SequenceResult) -> list[tuple[str, str]]:
    plan = result.protocol_summary
    share = f"{100 * result.collapse.share:g} %" if result.collapse else "the wanted share"
    return [
        ("model", result.model),
        ("protocol", f"{result.protocol}, hash {result.hash}"),
        ("sampler", f"{counted(plan['steps'], 'step')}, {plan['sampler']} scheduler, guidance {plan['guidance']}"),
        ("judge", plan["judge"]),
        ("gone", "of the pictures in which the untouched model shows a concept, the share that no longer does"),
        (
            "gone after its own deletion",
            f"the whole 95 % interval of that share lies at {100 * GONE:g} % or above; not gone: below",
        ),
        (
            "left",
            "of the pictures of other names that are right by the untouched model, the share that still is",
        ),
        ("collapse", f"the first step at which the whole 95 % interval of what is left lies below {share}"),
        (
            "rebound",
            "a concept's share after the last step less that after its own deletion (Newcombe's interval)",
        ),
        (
            "not come back",
            f"it was gone, and the whole interval of its rebound lies at {100 * STAYED:g} points or below",
        ),
        ("intervals", "95 %, Wilson score"),
    ]


def _share(figure: Figure, own: bool = False) -> Cell:
    """A cell with the share of pictures that show a concept, the darker the more."""
    text, note = _texts(figure)
    return Cell(text, note, sum(figure["value"] >= limit for limit in LEVELS), own)


def _change(figure: Figure) -> Cell:
    """A cell with a rebound in percentage points."""
    value, low, high = (round(100 * figure[key]) + 0 for key in ("value", "low", "high"))
    level = sum(figure["value"] >= limit for limit in LEVELS)
    return Cell(f"{value:+d}" if value else "0", f"{low:+d} to {high:+d}", level)


def _texts(figure: Figure) -> tuple[str, str]:
    """A rate in per cent, and its interval."""
    return f"{100 * figure['value']:.0f} %", f"{100 * figure['low']:.0f}–{100 * figure['high']:.0f}"
