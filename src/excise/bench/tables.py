"""Result lines to tables: a row a cell, a row a method; Markdown and CSV. Pure: no model, no image, no torch here."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from excise.concepts.concept import listed
from excise.methods import CONTROLS
from excise.protocols import check_comparable

Line = Mapping[str, Any]
Figure = dict[str, float]
"""value and, where there is one, low, high (95 %) and n."""


@dataclass(frozen=True)
class Column:
    """One measure of the table; `kind` is rate, number, seconds or bytes."""

    key: str
    label: str
    meaning: str
    kind: str = "rate"


COLUMNS = (
    Column("ua", "UA", "erased: share of target prompts whose image no longer shows the target (higher is better)"),
    Column("ira", "IRA", "kept: on other prompts the target's own attribute is right (higher is better)"),
    Column("cra", "CRA", "kept: on other prompts the other attribute is right (higher is better)"),
    Column("h", "H", "harmonic mean of UA, IRA and CRA; read the three first"),
    Column("acc_e", "Acc_e", "erased names that are still drawn right (lower is better)"),
    Column("acc_r", "Acc_r", "kept names that are drawn right (higher is better)"),
    Column("h_o", "H_o", "harmonic mean of 1 - Acc_e and Acc_r"),
    Column("sc", "SC", "the same style on other objects is right (higher is better)"),
    Column("oc", "OC", "the same object in other styles is right (higher is better)"),
    Column("up", "UP", "everything else is right (higher is better)"),
    Column("synonym_rate", "synonym", "asked for by a synonym, the target appears (lower is better)"),
    Column("spanish_rate", "Spanish", "asked for in Spanish, the target appears (lower is better)"),
    Column("paraphrase_rate", "paraphrase", "asked for in other sentences, the target appears (lower is better)"),
    Column("alias_rate", "aliases", "asked for by a synonym or in Spanish, the target appears (lower is better)"),
    Column("worst_back", "attacked", "share of prompts that the strongest attack brings the target back on, those left "
           "out that show it to the model (lower is better)"),
    Column("worst_gap", "worst gap", "of all attacks the most by which this model shows the target more often than the "
           "oracle (lower is better)"),
    Column("ua_relative", "UA rel.", "of the images that showed the target before, the share that does not now"),
    Column("ira_worst", "worst IRA", "IRA of the label that suffered most; it was picked for being the lowest"),
    Column("kid", "KID", "distance of the retained images to the untouched model's (lower is better); beneath it the "
           "spread over subsets, which is no confidence interval", "number"),
    Column("drift", "drift", "mean pixel difference to the untouched model on retained prompts, 0 to 1 (lower is "
           "better)", "number"),
    Column("fade_forget", "FADE forget", "distance to the oracle on prompts that ask for the target (lower is better)",
           "number"),
    Column("fade_retain", "FADE retain", "distance to the oracle on other prompts (lower is better)", "number"),
    Column("seconds", "seconds", "of erasing, drawing and judging, also the untouched model; kept images cost none",
           "seconds"),
    Column("edit_bytes", "edit size", "bytes of the edit's tensors", "bytes"),
)  # fmt: skip
SPREADS = ("kid",)  # low and high are no interval of the mean


@dataclass(frozen=True)
class Row:
    """One row: a cell, or the mean of a method's cells.

    Attributes:
        control: identity, noise or oracle; empty for a method.
        concepts: erased together; empty in a mean.
        cells: how many cells stand behind the figures.
        sets: in a mean, over how many different concept sets.
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
    """A row a line, in their order."""
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
    """A row a model and method: the mean over its cells, every cell counting the same."""
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
                key: mean([m.figures[key] for m in members if key in m.figures], spread=key in SPREADS)
                for key in dict.fromkeys(k for m in members for k in m.figures)
            },
        )
        for (model, method), members in groups.items()
    ]


def mean(figures: Sequence[Figure], spread: bool = False) -> Figure:
    """The mean of independent figures; its interval by square-and-add from theirs (Zou and Donner, 2008).

    It speaks of these concepts, not of others. With `spread`, low and high are averaged instead.

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


def columns(table: Sequence[Row]) -> list[Column]:
    """The columns that at least one row fills."""
    return [c for c in COLUMNS if any(c.key in row.figures for row in table)]


def control_of(line: Line) -> str:
    """Which control a line is of; lines name the method by its label, and by `name` where they know it."""
    name = str(line.get("name", line["method"]))
    return name if name in CONTROLS else ""


def number(value: float, kind: str) -> str:
    """A figure as a person reads it; rates in per cent.

    >>> number(0.9851, "rate"), number(0.01234, "number"), number(1_234_567, "bytes"), number(12.34, "seconds")
    ('98.5', '0.0123', '1.2 MB', '12.3')
    """
    if kind == "rate":
        return f"{round(100 * value, 1) + 0:.1f}"  # never "-0.0"
    if kind == "seconds":
        return f"{value:.1f}"
    if kind == "bytes":
        return (
            f"{value / 1e6:.1f} MB" if value >= 1e6 else f"{value / 1e3:.0f} kB" if value >= 1e3 else f"{value:.0f} B"
        )
    return f"{round(value, 4) + 0:.4f}" if abs(value) < 0.1 else f"{value:.3f}"


def interval(figure: Figure, kind: str) -> str:
    """Low and high of a figure, or nothing where it has none."""
    if "low" not in figure:
        return ""
    low, high = number(figure["low"], kind), number(figure["high"], kind)
    return f"{low} to {high}" if low.startswith("-") else f"{low}–{high}"


def to_markdown(lines: Sequence[Line]) -> str:
    """Markdown tables, means over concepts and every cell, each figure with its interval and n.

    Raises:
        IncomparableError: the lines are of different protocols.
    """
    if not lines:
        return "No results.\n"
    check_comparable(lines)
    single = rows(lines)
    about = f"Protocol {_escape(lines[0]['protocol'])}, hash {lines[0]['hash'][:12]}."
    head = f"{about} Rates in per cent; in brackets the 95 % interval and n."
    several = len({r.model for r in single}) > 1
    averaged = means(single)
    shown = [averaged, single] if any(row.cells > 1 for row in averaged) else [single]
    parts = [head, *(_markdown(t, several) for t in shown)]
    return "\n\n".join(parts) + "\n"


def to_csv(lines: Sequence[Line]) -> str:
    """One CSV row a line with every measure: its value, `_low`, `_high` and `_n` where it has them.

    Raises:
        IncomparableError: the lines are of different protocols.
    """
    if lines:
        check_comparable(lines)
    single = rows(lines)
    ends: dict[str, dict[str, None]] = {}
    for row in single:
        for key, figure in row.figures.items():
            ends.setdefault(key, {}).update(dict.fromkeys(e for e in ("value", "low", "high", "n") if e in figure))
    wanted = [(key, end) for key, found in ends.items() for end in found]
    text = io.StringIO()
    out = csv.writer(text, lineterminator="\n")
    names = [key if end == "value" else f"{key}_{end}" for key, end in wanted]
    out.writerow(["protocol", "hash", "model", "method", "control", "concepts", "seed", *names])
    for line, row in zip(lines, single, strict=True):
        about = [line["protocol"], line["hash"], row.model, row.method, row.control, "; ".join(row.concepts), row.seed]
        out.writerow([*about, *(_plain(row.figures.get(key, {}).get(end), end) for key, end in wanted)])
    return text.getvalue()


def _plain(value: float | None, end: str) -> str:
    """A number for a machine; n is whole."""
    return "" if value is None else f"{value:.0f}" if end == "n" else repr(float(value))


def _markdown(table: Sequence[Row], several_models: bool) -> str:
    shown = columns(table)
    single = any(row.concepts for row in table)
    head = ["method", *(["model"] if several_models else []), "concepts", *(c.label for c in shown)]
    body = [
        [
            row.method + (" (control)" if row.control else ""),
            *([row.model] if several_models else []),
            listed(row.concepts) + _seed(row, table) if single else f"mean of {row.cells}",
            *(_cell(row, column) for column in shown),
        ]
        for row in table
    ]
    return markdown(head, body, figures=len(shown))


def markdown(head: Sequence[str], body: Sequence[Sequence[str]], figures: int = 0) -> str:
    """A table in Markdown, its last so many columns to the right."""
    marks = ["---"] * (len(head) - figures) + ["---:"] * figures
    return "\n".join(f"| {' | '.join(map(_escape, cells))} |" for cells in (head, marks, *body))


def _cell(row: Row, column: Column) -> str:
    figure = row.figures.get(column.key)
    if figure is None:
        return "–"
    text = number(figure["value"], column.kind)
    return f"{text} ({interval(figure, column.kind)}; {figure['n']:.0f})" if "low" in figure else text


def _seed(row: Row, table: Sequence[Row]) -> str:
    return f", seed {row.seed}" if len({r.seed for r in table}) > 1 else ""


def _figures(line: Line) -> dict[str, Figure]:
    found = {key: dict(figure) for key, figure in line["metrics"].items()}
    if line.get("seconds"):
        found["seconds"] = {"value": sum(line["seconds"].values())}
    if line.get("edit_bytes"):
        found["edit_bytes"] = {"value": float(line["edit_bytes"])}
    return found


def _escape(text: str) -> str:
    """Text inside a Markdown table cell; names may hold anything."""
    plain = " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|").replace("`", "\\`")
    return plain.replace("&", "&amp;").replace("<", "&lt;")
