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
LEAST = 20  # characters that a column which may take several lines a row has at least
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
    """Print a plain table on standard output.

    On a terminal that is too narrow for it, the widest columns take several lines a row. Elsewhere, each row of
    one-line cells is one line, so that programs that read lines can use it.
    """
    from rich.table import Table
    from rich.text import Text

    widths = [
        max(len(line) for cell in column for line in cell.split("\n")) for column in zip(header, *rows, strict=True)
    ]
    whole = sum(widths) + 2 * len(widths)
    out = Console(highlight=False)
    if not out.is_terminal:
        out = Console(highlight=False, width=max(whole, 80))
    grid = Table(*header, box=None, pad_edge=False)
    kept = _unfolded(widths, out.width)
    for number, column in enumerate(grid.columns):
        column.overflow = "fold"  # times and hashes must not be cut off
        column.no_wrap = number in kept
    for row in rows:
        grid.add_row(*(Text(cell) for cell in row))
    with out.capture() as capture:
        out.print(grid)
    sys.stdout.write("\n".join(line.rstrip() for line in capture.get().split("\n")))


def _unfolded(widths: Sequence[int], room: int) -> set[int]:
    """The columns that stay on one line: the narrowest, as long as some room is left for each other one.

    >>> _unfolded([20, 5, 60], 60) == {0, 1}, _unfolded([70, 70], 80)
    (True, set())
    """
    order, left = sorted(range(len(widths)), key=lambda n: widths[n]), room - 2 * len(widths)
    for place, number in enumerate(order):
        if widths[number] + sum(min(widths[n], LEAST) for n in order[place + 1 :]) > left:
            return set(order[:place])
        left -= widths[number]
    return set(order)
