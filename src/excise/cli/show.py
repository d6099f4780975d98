"""Printing for all commands: messages and progress on standard error, tables and JSON on standard output."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

Advance = Callable[[int, int], None]

errors = Console(stderr=True, highlight=False, soft_wrap=True)


def say(text: str) -> None:
    """Print one line on standard error; names in it are never read as markup."""
    errors.print(text, markup=False)


def print_json(data: Any) -> None:
    """Print the document of `--json`."""
    sys.stdout.write(json.dumps(data, indent=2, ensure_ascii=False) + "\n")


@contextmanager
def progress(what: str) -> Iterator[Advance]:
    """Yield a callback (done, total) that draws a bar with the time left, or prints a line every ten seconds."""
    with stages() as say:
        say(what, 0, 0)  # shows a moving bar at once
        yield partial(say, what)


@dataclass
class _Stage:
    """A stage of the work: the count and time when it began, the current count, and the time of the last line."""

    first: int
    began: float
    done: int
    said: float


@contextmanager
def stages() -> Iterator[Callable[[str, int, int], None]]:
    """Yield a callback (what, done, total) for work in stages: one bar for each, or a line every ten seconds."""
    if errors.is_terminal:
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        with Progress(*columns, TextColumn("left"), TimeRemainingColumn(), console=errors, transient=True) as bar:
            tasks: dict[str, Any] = {}

            def draw(what: str, done: int, total: int) -> None:
                stage = what.split(",")[0]
                if stage not in tasks:
                    tasks[stage] = bar.add_task(what, total=None)
                elif done < bar.tasks[tasks[stage]].completed:
                    bar.reset(tasks[stage])
                bar.update(tasks[stage], description=what, completed=done, total=total or None)

            yield draw
        return
    running: dict[str, _Stage] = {}

    def line(what: str, done: int, total: int) -> None:
        name, now = what.split(",")[0], time.monotonic()
        if name not in running or done < running[name].done:  # a count that falls starts the stage again
            running[name] = _Stage(done, now, done, now)
        stage = running[name]
        stage.done = done
        if total and (done == total or now - stage.said > 10):
            stage.said = now
            left = (now - stage.began) / max(1, done - stage.first) * (total - done)
            say(f"{what}: {done}/{total}, about {left:.0f} s left" if done < total else f"{what}: {total}/{total}")

    yield line


def table(rows: Sequence[tuple[str, ...]], header: tuple[str, ...]) -> None:
    """Print a plain table on standard output."""
    from rich.table import Table
    from rich.text import Text

    grid = Table(*header, box=None, pad_edge=False)
    for column in grid.columns:
        column.overflow = "fold"  # times and hashes must not be cut off
    for row in rows:
        grid.add_row(*(Text(cell) for cell in row))
    Console(highlight=False).print(grid)
