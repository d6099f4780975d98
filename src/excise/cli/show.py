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

Advance = Callable[[float, int], None]

BRIEF = 2.0  # seconds: a stage that takes longer shows its progress
LINE_EVERY = 10.0  # seconds between lines where there is no terminal

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


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """Show a moving bar with the elapsed time, on a terminal, while something without a count is done."""
    if not errors.is_terminal:
        yield
        return
    with progress(what):
        yield


@dataclass
class _Stage:
    """A stage of the work: the count and time when it began, the current count, and the time of the last line."""

    first: float
    began: float
    done: float
    said: float


@contextmanager
def stages() -> Iterator[Callable[[str, float, int], None]]:
    """Yield a callback (what, done, total) for work in stages: one bar for each, or a line every ten seconds.

    `done` may be a fraction: the time left follows it, and what is printed are whole numbers.
    """
    if errors.is_terminal:
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        with Progress(*columns, TextColumn("left"), TimeRemainingColumn(), console=errors, transient=True) as bar:
            tasks: dict[str, Any] = {}

            def draw(what: str, done: float, total: int) -> None:
                stage = what.split(",")[0]
                if stage not in tasks:
                    tasks[stage] = bar.add_task(what, total=None)
                elif done < bar.tasks[tasks[stage]].completed:
                    bar.reset(tasks[stage])
                bar.update(tasks[stage], description=what, completed=done, total=total or None)

            yield draw
        return
    running: dict[str, _Stage] = {}

    def line(what: str, done: float, total: int) -> None:
        name, now = what.split(",")[0], time.monotonic()
        if name not in running or done < running[name].done:  # a count that falls starts the stage again
            running[name] = _Stage(done, now, done, now)
        stage = running[name]
        stage.done = done
        ended = done == total and now - stage.began > BRIEF  # a brief stage needs no line
        if total and (ended or (done < total and now - stage.said > LINE_EVERY)):
            stage.said = now
            moved = done - stage.first
            left = f", about {(now - stage.began) / moved * (total - done):.0f} s left" if 0 < moved < total else ""
            say(f"{what}: {int(done)}/{total}{left if done < total else ''}")

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
