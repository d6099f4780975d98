"""excise bench: run a benchmark recipe, and write its page and tables."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from excise.cli import options as o

if TYPE_CHECKING:
    from excise.bench.recipe import Recipe
    from excise.bench.run import CellResult

ENGINES = ("local", "ray")
RESULTS = "results.jsonl"


def bench(
    recipe: Annotated[Path, typer.Argument(help="A YAML file of methods, concepts, models and protocols.")],
    out: Annotated[Path, typer.Option(help="Folder of the results; an interrupted run resumes there.")],
    engine: Annotated[
        str,
        typer.Option(help="The engine: local (this machine, or what accelerate launch started) or ray (a cluster)."),
    ] = "local",
    force: Annotated[
        bool, typer.Option("--force", help="Replace the page and tables in --out though they show further cells.")
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Print what would be erased and drawn, say what is missing for it, and write nothing."
        ),
    ] = False,
    as_json: o.JsonOption = False,
) -> None:
    """Run every method on every concept with the same prompts, seeds and judge, and write a page and tables.

    Example: excise bench recipes/canvas-closed-form.yaml --out runs/bench
    """
    from excise.bench.recipe import read
    from excise.errors import unknown

    if engine not in ENGINES:
        raise unknown("engine", engine, ENGINES)
    content = read(recipe)
    if not force:
        _check_place(content, out)
    if dry_run:
        _print_plan(content, as_json=as_json)
        return

    from excise.bench.plan import check_ready
    from excise.cli import results, show

    check_ready(content)
    cells, writes = _run(engine, content, out)
    if not writes:
        return
    lines = [d.line() for d in cells]
    command = results.command_line("bench", recipe, "--out", out, *(["--engine", engine] if engine != "local" else []))
    page = _write(content, cells, out, command)
    if as_json:
        show.print_json(
            {
                "out": str(out),
                "report": str(page),
                "results": str(out / "results.jsonl"),
                "cells": len(cells),
                "means": results.mean_records(lines),
            }
        )
    else:
        results.mean_table(lines)
        show.say(f"report: {page}")


def _print_plan(recipe: Recipe, *, as_json: bool) -> None:
    """Print the cells and their pictures; refuse what cannot be run here."""
    from excise.bench.plan import check_ready, planned, untouched_pictures
    from excise.cli import show
    from excise.support.counts import counted

    cells = planned(recipe)
    check_ready(recipe)
    total = sum(p.pictures for p in cells)
    untouched = untouched_pictures(cells)
    if as_json:
        rows = [
            {
                "model": p.cell.model,
                "protocol": p.cell.protocol,
                "hash": p.cell.hash,
                "method": p.cell.method.title,
                "concepts": list(p.cell.concepts),
                "pictures": p.pictures,
            }
            for p in cells
        ]
        show.print_json({"cells": rows, "pictures": total, "untouched": untouched})
        return
    table = [(p.cell.model, p.cell.protocol, p.cell.title, f"{p.pictures:,}") for p in cells]
    show.table(table, ("model", "protocol", "cell", "pictures"))
    show.say(
        f"{counted(len(cells), 'cell')}, {counted(total, 'picture')}, and {untouched:,} of the untouched model"
        f"{', without those of attacks' if recipe.attack else ''}; nothing is missing, and nothing was written."
    )


def _check_place(recipe: Recipe, out: Path) -> None:
    """Refuse a folder whose page and tables show cells that the recipe does not have; more cells may be added.

    Raises:
        OutputError: it holds such cells.
    """
    from excise.bench.recipe import cells
    from excise.errors import OutputError
    from excise.support.counts import counted

    try:
        lines = [json.loads(line) for line in (out / RESULTS).read_text(encoding="utf-8").splitlines()]
        shown = {line["key"]: f"{line['method']}: {', '.join(line['concepts'][:3])}" for line in lines}
    except FileNotFoundError:
        return
    except (OSError, ValueError, KeyError, TypeError):
        raise OutputError(
            f"{out / RESULTS} cannot be read; choose another --out, or replace it with --force."
        ) from None
    for cell in cells(recipe):
        shown.pop(cell.key, None)
    if shown:
        raise OutputError(
            f"{out} holds {counted(len(shown), 'cell')} of another recipe ({next(iter(shown.values()))}), which its "
            "page and tables would no longer show; choose another --out, or replace them with --force."
        )


def _run(engine: str, recipe: Recipe, out: Path) -> tuple[list[CellResult], bool]:
    """Return the finished cells, and whether this process is the one that prints and writes."""
    from excise.cli import show

    if engine == "ray":
        from excise.bench import ray as bench_ray

        return bench_ray.run(recipe, out, say=show.say), True

    from excise.bench import run as local

    if int(os.environ.get("WORLD_SIZE", "1")) <= 1:
        return local.run(recipe, out, bar=show.progress, say=show.say), True
    workers = local.processes()
    if workers.rank:
        return local.run(recipe, out, workers=workers), False
    return local.run(recipe, out, workers=workers, bar=show.progress, say=show.say), True


def _write(recipe: Recipe, cells: list[CellResult], out: Path, command: str) -> Path:
    """Write the page, and a table in Markdown, CSV and LaTeX for each protocol; return the page."""
    import yaml

    from excise.bench import tables
    from excise.cli import results
    from excise.report import bench_page
    from excise.support.files import write_text

    groups = results.by_protocol([d.line() for d in cells])
    for group in groups:
        name = "table" if len(groups) == 1 else f"table-{group[0]['protocol']}"
        write_text(out / f"{name}.md", tables.to_markdown(group))
        write_text(out / f"{name}.csv", tables.to_csv(group))
        write_text(out / f"{name}.tex", tables.to_latex(group))
    content = recipe.model_dump(mode="json", by_alias=True)
    about = bench_page.About(
        name=recipe.name,
        date=results.today(),
        recipe=yaml.safe_dump(content, sort_keys=False, allow_unicode=True),
        commands=bench_page.commands(cells, command),
        versions=results.versions(),
    )
    return bench_page.write(cells, out, out / "report.html", about)
