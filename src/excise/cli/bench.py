"""excise bench: a recipe of methods x concepts x models, resumable, with its page and tables."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from excise.cli import options as o

ENGINES = ("local", "ray")


def bench(
    recipe: Annotated[Path, typer.Argument(help="A YAML file: methods, concepts, models, protocols.")],
    out: Annotated[Path, typer.Option(help="Folder of the results; a run that was stopped goes on there.")],
    engine: Annotated[
        str, typer.Option(help="local: this machine, or what accelerate launch started; ray: a Ray cluster.")
    ] = "local",
    as_json: o.JsonOption = False,
) -> None:
    """Run every method on every concept with the same prompts, seeds and judge; write the page and the tables.

    Example: excise bench recipes/canvas-closed-form.yaml --out runs/bench
    """
    from excise.bench.recipe import read
    from excise.errors import unknown

    if engine not in ENGINES:
        raise unknown("engine", engine, ENGINES)
    wanted = read(recipe)

    from excise.cli import results, show

    done, first = _run(engine, wanted, out)
    if not first:
        return
    lines = [d.line() for d in done]
    command = results.command_line("bench", recipe, "--out", out, *(["--engine", engine] if engine != "local" else []))
    page = _write(wanted, done, lines, out, command)
    if as_json:
        show.print_json(
            {
                "out": str(out),
                "report": str(page),
                "results": str(out / "results.jsonl"),
                "cells": len(done),
                "means": results.mean_records(lines),
            }
        )
    else:
        results.mean_table(lines)
        show.say(f"see it: {page}")


def _run(engine: str, wanted: Any, out: Path) -> tuple[list[Any], bool]:
    """The finished cells, and whether this process is the one that speaks and writes."""
    from excise.cli import show

    if engine == "ray":
        from excise.bench import ray as bench_ray

        return bench_ray.run(wanted, out, say=show.say), True

    from excise.bench import run as local

    if int(os.environ.get("WORLD_SIZE", "1")) <= 1:
        return local.run(wanted, out, bar=show.progress, say=show.say), True
    workers = local.processes()
    if workers.rank:
        return local.run(wanted, out, workers=workers), False
    return local.run(wanted, out, workers=workers, bar=show.progress, say=show.say), True


def _write(wanted: Any, done: list[Any], lines: list[dict[str, Any]], out: Path, command: str) -> Path:
    """The page, and a Markdown and a CSV table (one of each for every protocol where there are several)."""
    import yaml

    from excise.bench import tables
    from excise.cli import results
    from excise.report import bench_page
    from excise.support.files import write_text

    groups = results.by_protocol(lines)
    for group in groups:
        name = "table" if len(groups) == 1 else f"table-{group[0]['protocol']}"
        write_text(out / f"{name}.md", tables.to_markdown(group))
        write_text(out / f"{name}.csv", tables.to_csv(group))
    content = wanted.model_dump(mode="json", by_alias=True)
    about = bench_page.About(
        name=wanted.name,
        date=results.today(),
        recipe=yaml.safe_dump(content, sort_keys=False, allow_unicode=True),
        commands=bench_page.commands(done, command),
        versions=results.versions(),
    )
    return bench_page.write(done, out, out / "report.html", about)
