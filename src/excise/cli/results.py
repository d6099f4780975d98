"""What `bench` and `compare` say of result lines: the table of means, and what stands on their pages beside them."""

from __future__ import annotations

import datetime
import platform
import shlex
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from excise.bench import tables
from excise.cli import show

LISTED = ("ua", "ira", "cra", "h", "acc_e", "acc_r", "h_o", "ua_relative", "kid", "drift", "seconds")


def mean_table(lines: Sequence[tables.Line]) -> None:
    """Means over concepts on standard output, a table a protocol."""
    for group in by_protocol(lines):
        averaged = tables.means(tables.rows(group))
        columns = [c for c in tables.columns(averaged) if c.key in LISTED]
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
    """The same for `--json`, with every measure."""
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
    """Lines that may stand in one table."""
    groups: dict[str, list[tables.Line]] = {}
    for line in lines:
        groups.setdefault(line["hash"], []).append(line)
    return list(groups.values())


def command_line(*words: object) -> str:
    """An excise command as one would type it."""
    return shlex.join(["excise", *map(str, words)])


def today() -> str:
    return datetime.datetime.now(datetime.timezone.utc).date().isoformat()


def versions() -> list[tuple[str, str]]:
    """What the numbers were made with."""
    found = []
    for package in ("excise", "torch", "diffusers", "transformers", "accelerate", "numpy"):
        try:
            found.append((package, version(package)))
        except PackageNotFoundError:
            continue
    return [*found, ("python", platform.python_version()), ("platform", platform.platform())]


def _text(row: tables.Row, column: tables.Column) -> str:
    figure = row.figures.get(column.key)
    return tables.number(figure["value"], column.kind) if figure else "–"
