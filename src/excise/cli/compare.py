"""excise compare: show finished runs of one protocol on one page or in one table."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Annotated, Optional

import typer

from excise.cli import options as o

FORMATS = {"html": (".html", ".htm"), "markdown": (".md", ".markdown"), "csv": (".csv",), "latex": (".tex",)}


def compare(
    runs: Annotated[list[Path], typer.Argument(help="Run folders of excise bench or excise evaluate.")],
    out: Annotated[Path, typer.Option(help="The file to write.")],
    format: Annotated[
        Optional[str],
        typer.Option(
            help="The format: html, markdown, csv or latex. By default that of the file's ending (.html, .md, .csv, "
            ".tex)."
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file at --out that shows other runs.")] = False,
    as_json: o.JsonOption = False,
) -> None:
    """Compare finished runs of one protocol: on one page with tables, chart and images, or in one table.

    Example: excise compare runs/bench runs/cat-evaluation --out compare.html
    """
    from excise.cli import show
    from excise.errors import unknown

    chosen = format or _format_of(out)
    if chosen not in FORMATS:
        raise unknown("format", chosen, FORMATS)

    from excise.bench import tables
    from excise.bench.read import read_runs
    from excise.cli import results
    from excise.report import bench_page
    from excise.support.files import write_text

    cells = read_runs(runs)
    lines = [d.line() for d in cells]
    command = results.command_line("compare", *runs, "--out", out)
    writers = {"markdown": tables.to_markdown, "csv": tables.to_csv, "latex": tables.to_latex}
    text = writers[chosen](lines) if chosen in writers else ""
    if not force:
        _check_place(out, text or command)
    if chosen == "html":
        about = bench_page.About(
            name=f"Comparison of {', '.join(r.resolve().name for r in runs)}",
            date=results.today(),
            commands=[("the same page again", command)],
            versions=results.versions(),
        )
        bench_page.write(cells, Path(), out, about)
    else:
        write_text(out, text)
    if as_json:
        show.print_json(
            {
                "out": str(out),
                "protocol": lines[0]["protocol"],
                "hash": lines[0]["hash"],
                "means": results.mean_records(lines),
                "cells": [{k: v for k, v in line.items() if k != "protocol_summary"} for line in lines],
            }
        )
    else:
        results.mean_table(lines)
        show.say(f"written: {out}")


def _check_place(out: Path, same: str) -> None:
    """Refuse to replace a file that was not made of the same runs.

    Args:
        same: the text that such a file holds: the command on a page, else the whole table.

    Raises:
        OutputError: there is another file.
    """
    from excise.errors import OutputError

    if not out.is_file():
        return
    there = out.read_text(encoding="utf-8", errors="replace")
    if same.replace("\r\n", "\n") != there and same not in html.unescape(there):
        raise OutputError(
            f"{out} is there already and shows other runs; choose another --out, or replace it with --force."
        )


def _format_of(out: Path) -> str:
    """The format that the ending of a file stands for.

    Raises:
        OutputError: it stands for none.
    """
    from excise.errors import OutputError

    for name, endings in FORMATS.items():
        if out.suffix.lower() in endings:
            return name
    choices = ", ".join(endings[0] for endings in FORMATS.values())
    raise OutputError(
        f"the ending of --out {out} tells no format; expected {choices}, or a format given with --format "
        f"({', '.join(FORMATS)})."
    )
