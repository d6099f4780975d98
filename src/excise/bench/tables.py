"""Benchmark results as tables: a row for each cell, and the means of each method. No torch here."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from excise.bench.recipe import as_control
from excise.concepts.concept import listed
from excise.evaluation.catalog import METRICS, Metric, Prominence, interval, number
from excise.protocols import check_comparable

Line = Mapping[str, Any]
"""A line of `results.jsonl`."""
STAGES = {"erase": "seconds_solving", "draw": "seconds_drawing"}
"""Stages of a line's `seconds` that are figures of their own, by their metric keys."""
Figure = dict[str, float]
"""An estimate as JSON has it: value and, where known, low, high (95 %) and n."""


@dataclass(frozen=True)
class Row:
    """A table row: one cell, or the mean over the cells of a method.

    Attributes:
        control: identity, noise or oracle; empty for a method.
        concepts: erased together; empty in a mean.
        cells: the number of cells averaged. sets: the number of different concept sets among them.
        figures: by metric key.
    """

    method: str
    control: str
    model: str
    concepts: tuple[str, ...]
    seed: int | None
    cells: int
    sets: int
    figures: dict[str, Figure] = field(default_factory=dict)


def rows(lines: Sequence[Line]) -> list[Row]:
    """One row for each line, in the same order."""
    return [
        Row(
            method=line["method"],
            control=control_of(line),
            model=line["model"],
            concepts=tuple(line["concepts"]),
            seed=line.get("seed"),
            cells=1,
            sets=1,
            figures=_figures(line),
        )
        for line in lines
    ]


def means(single: Sequence[Row]) -> list[Row]:
    """One row for each model and method: the mean over its cells, with equal weights."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in single:
        groups.setdefault((row.model, row.method), []).append(row)
    return [
        Row(
            method=method,
            control=members[0].control,
            model=model,
            concepts=(),
            seed=None,
            cells=len(members),
            sets=len({m.concepts for m in members}),
            figures={
                key: mean([m.figures[key] for m in members if key in m.figures], spread=_is_spread(key))
                for key in dict.fromkeys(k for m in members for k in m.figures)
            },
        )
        for (model, method), members in groups.items()
    ]


def mean(figures: Sequence[Figure], spread: bool = False) -> Figure:
    """The mean of independent estimates, its interval combined from theirs by square-and-add (Zou and Donner, 2008).

    The interval holds for these concepts; it says nothing about other concepts.

    Args:
        spread: low and high are no confidence interval, so they are averaged instead.

    >>> m = mean([{"value": 0.8, "low": 0.7, "high": 0.9, "n": 10}, {"value": 0.6, "low": 0.5, "high": 0.7, "n": 10}])
    >>> {k: round(v, 3) for k, v in m.items()}
    {'value': 0.7, 'low': 0.629, 'high': 0.771, 'n': 20}
    """
    k = len(figures)
    value = sum(f["value"] for f in figures) / k
    if not all("low" in f for f in figures):
        return {"value": value}
    if spread:
        low, high = (sum(f[end] for f in figures) / k for end in ("low", "high"))
    else:
        low = value - math.sqrt(sum((f["value"] - f["low"]) ** 2 for f in figures)) / k
        high = value + math.sqrt(sum((f["high"] - f["value"]) ** 2 for f in figures)) / k
    return {"value": value, "low": low, "high": high, "n": sum(f["n"] for f in figures)}


def columns(table: Sequence[Row], level: Prominence = Prominence.TABLE) -> list[Metric]:
    """The metrics shown at a level for which at least one row has a value, in the order of the catalogue."""
    return [m for key, m in METRICS.items() if m.prominence >= level and any(key in row.figures for row in table)]


def control_of(line: Line) -> str:
    """The control that a line belongs to (identity, noise or oracle); empty for a method.

    Newer lines have the method's name beside its label; in older ones the label is all there is.
    """
    return as_control(str(line.get("name", line["method"])))


def to_markdown(lines: Sequence[Line]) -> str:
    """Markdown tables of the means over concepts and of every cell, each value with its interval and n.

    Raises:
        IncomparableError: the lines belong to different protocols.
    """
    if not lines:
        return "No results.\n"
    check_comparable(lines)
    single = rows(lines)
    about = f"Protocol {_escape(lines[0]['protocol'])}, hash {lines[0]['hash'][:12]}."
    head = f"{about} Rates in per cent; in brackets the 95 % interval and n."
    several = len({r.model for r in single}) > 1
    averaged = means(single)
    tables = [averaged, single] if any(row.cells > 1 for row in averaged) else [single]
    parts = [head, *(_markdown(t, several) for t in tables)]
    return "\n\n".join(parts) + "\n"


def to_latex(lines: Sequence[Line]) -> str:
    """LaTeX tables (package booktabs) of the means over concepts and of every cell, each value with its interval.

    Raises:
        IncomparableError: the lines belong to different protocols.
    """
    if not lines:
        return "% No results.\n"
    check_comparable(lines)
    single = rows(lines)
    several = len({r.model for r in single}) > 1
    averaged = means(single)
    parts = [
        f"% Protocol {lines[0]['protocol']}, hash {lines[0]['hash'][:12]}. Needs \\usepackage{{booktabs}}.",
        "% Rates in per cent; in brackets the 95 % interval.",
    ]
    for table in [averaged, single] if any(row.cells > 1 for row in averaged) else [single]:
        head, body, figures = _grid(table, several, count=False)
        parts.append(latex(head, body, figures))
    return "\n".join(parts) + "\n"


def to_csv(lines: Sequence[Line]) -> str:
    """One CSV row for each line, with every metric: its value, and `_low`, `_high` and `_n` where it has them.

    Raises:
        IncomparableError: the lines belong to different protocols.
    """
    if lines:
        check_comparable(lines)
    single = rows(lines)
    ends: dict[str, dict[str, None]] = {}
    for row in single:
        for key, figure in row.figures.items():
            ends.setdefault(key, {}).update(dict.fromkeys(e for e in ("value", "low", "high", "n") if e in figure))
    fields = [(key, end) for key, known_ends in ends.items() for end in known_ends]
    text = io.StringIO()
    out = csv.writer(text, lineterminator="\n")
    names = [key if end == "value" else f"{key}_{end}" for key, end in fields]
    out.writerow(["protocol", "hash", "model", "method", "control", "concepts", "seed", *names])
    for line, row in zip(lines, single, strict=True):
        about = [line["protocol"], line["hash"], row.model, row.method, row.control, "; ".join(row.concepts), row.seed]
        out.writerow([*about, *(_plain(row.figures.get(key, {}).get(end), end) for key, end in fields)])
    return text.getvalue()


def _plain(value: float | None, end: str) -> str:
    """A number in full precision; n is an integer."""
    return "" if value is None else f"{value:.0f}" if end == "n" else repr(float(value))


def _markdown(table: Sequence[Row], several_models: bool) -> str:
    head, body, figures = _grid(table, several_models)
    return markdown(head, body, figures)


def _grid(table: Sequence[Row], several_models: bool, count: bool = True) -> tuple[list[str], list[list[str]], int]:
    """Head and rows of a table as texts, and how many of the last columns hold figures.

    Args:
        count: give n in the brackets behind each value.
    """
    metrics = columns(table)
    single = any(row.concepts for row in table)
    head = ["method", *(["model"] if several_models else []), "concepts", *(m.label for m in metrics)]
    body = [
        [
            row.method + (" (control)" if row.control else ""),
            *([row.model] if several_models else []),
            listed(row.concepts) + _seed(row, table) if single else f"mean of {row.cells}",
            *(_cell(row, metric, count) for metric in metrics),
        ]
        for row in table
    ]
    return head, body, len(metrics)


def latex(head: Sequence[str], body: Sequence[Sequence[str]], figures: int = 0) -> str:
    """A LaTeX table whose last `figures` columns are aligned to the right."""

    def line(cells: Sequence[str]) -> str:
        return "  " + " & ".join(map(_tex, cells)) + r" \\"

    marks = "l" * (len(head) - figures) + "r" * figures
    inner = [r"  \toprule", line(head), r"  \midrule", *map(line, body), r"  \bottomrule"]
    return "\n".join([rf"\begin{{tabular}}{{{marks}}}", *inner, r"\end{tabular}"])


_TEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "–": "--",
    **{letter: "\\" + letter for letter in "&%$#_{}"},
}


def _tex(text: str) -> str:
    """Escape text for LaTeX."""
    return "".join(_TEX.get(letter, letter) for letter in " ".join(text.split()))


def markdown(head: Sequence[str], body: Sequence[Sequence[str]], figures: int = 0) -> str:
    """A Markdown table whose last `figures` columns are aligned to the right."""
    marks = ["---"] * (len(head) - figures) + ["---:"] * figures
    return "\n".join(f"| {' | '.join(map(_escape, cells))} |" for cells in (head, marks, *body))


def _cell(row: Row, metric: Metric, count: bool = True) -> str:
    figure = row.figures.get(metric.key)
    if figure is None:
        return "–"
    text = number(figure["value"], metric.unit)
    if "low" not in figure:
        return text
    ends = interval(figure, metric.unit)
    return f"{text} ({ends}; {figure['n']:.0f})" if count else f"{text} ({ends})"


def _seed(row: Row, table: Sequence[Row]) -> str:
    return f", seed {row.seed}" if len({r.seed for r in table}) > 1 else ""


def _figures(line: Line) -> dict[str, Figure]:
    """The metrics of a line, with its times and the size of its edit."""
    figures = {key: dict(figure) for key, figure in line["metrics"].items()}
    if seconds := line.get("seconds"):
        figures["seconds"] = {"value": sum(seconds.values())}
        for stage, key in STAGES.items():
            if stage in seconds:
                figures[key] = {"value": float(seconds[stage])}
    if line.get("edit_bytes"):
        figures["edit_bytes"] = {"value": float(line["edit_bytes"])}
    return figures


def _is_spread(key: str) -> bool:
    return key in METRICS and METRICS[key].is_spread


def _escape(text: str) -> str:
    """Escape text for a Markdown table cell."""
    plain = " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|").replace("`", "\\`")
    return plain.replace("&", "&amp;").replace("<", "&lt;")
