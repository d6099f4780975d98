"""What `excise bench` and `excise compare` share: the printed table of means, and facts for their pages."""

from __future__ import annotations

import datetime
import platform
import shlex
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from excise.bench import tables
from excise.cli import show
from excise.evaluation.catalog import Metric, Prominence, number


def mean_table(lines: Sequence[tables.Line]) -> None:
    """Print the means over concepts on standard output, one table for each protocol."""
    for group in by_protocol(lines):
        averaged = tables.means(tables.rows(group))
        columns = tables.columns(averaged, Prominence.TERMINAL)
        several = len({r.model for r in averaged}) > 1
        head = ("method", *(["model"] if several else []), "cells", *(c.label for c in columns))
        body = [
            (
                row.method + (" (control)" if row.control else ""),
                *([row.model] if several else []),
                str(row.cells),
                *(_text(row, c) for c in columns),
            )
            for row in averaged
        ]
        show.table(body, head)


def mean_records(lines: Sequence[tables.Line]) -> list[dict[str, Any]]:
    """Return the means over concepts for `--json`, with every metric."""
    return [
        {
            "protocol": group[0]["protocol"],
            "model": row.model,
            "method": row.method,
            "control": row.control or None,
            "cells": row.cells,
            "concept_sets": row.sets,
            "metrics": row.figures,
        }
        for group in by_protocol(lines)
        for row in tables.means(tables.rows(group))
    ]


def by_protocol(lines: Sequence[tables.Line]) -> list[list[tables.Line]]:
    """Group result lines by protocol hash; each group may form one table."""
    groups: dict[str, list[tables.Line]] = {}
    for line in lines:
        groups.setdefault(line["hash"], []).append(line)
    return list(groups.values())


def command_line(*words: object) -> str:
    """Return an excise command line, quoted for a shell."""
    return shlex.join(["excise", *map(str, words)])


def today() -> str:
    """Return the date in UTC, as YYYY-MM-DD."""
    return datetime.datetime.now(datetime.timezone.utc).date().isoformat()


def versions() -> list[tuple[str, str]]:
    """Return (name, version) pairs of the packages, Python and the platform."""
    installed = []
    for package in ("excise", "torch", "diffusers", "transformers", "accelerate", "numpy"):
        try:
            installed.append((package, version(package)))
        except PackageNotFoundError:
            continue
    return [*installed, ("python", platform.python_version()), ("platform", platform.platform())]


def _text(row: tables.Row, metric: Metric) -> str:
    figure = row.figures.get(metric.key)
    return number(figure["value"], metric.unit) if figure else "–"
