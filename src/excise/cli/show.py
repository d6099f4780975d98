"""What the verbs print: progress with time left on a terminal, plain lines elsewhere; JSON alone on standard output."""

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
    """One line for a person, on standard error; names in it are never read as markup."""
    errors.print(text, markup=False)


def print_json(data: Any) -> None:
    """The one document of `--json`."""
    sys.stdout.write(json.dumps(data, indent=2, ensure_ascii=False) + "\n")


@contextmanager
def progress(what: str) -> Iterator[Advance]:
    """A callback (done, total) that draws a bar with the time left, or prints a line every ten seconds."""
    with stages() as say:
        say(what, 0, 0)  # a bar that moves before anything is done
        yield partial(say, what)


@dataclass
class _Stage:
    """What was done when it began, and when; what is done now, and when that was last said."""

    first: int
    began: float
    done: int
    said: float


@contextmanager
def stages() -> Iterator[Callable[[str, int, int], None]]:
    """A callback (what, done, total) for work of several stages: one bar each, or lines every ten seconds."""
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
        if name not in running or done < running[name].done:  # a stage that goes back comes again
            running[name] = _Stage(done, now, done, now)
        stage = running[name]
        stage.done = done
        if total and (done == total or now - stage.said > 10):
            stage.said = now
            left = (now - stage.began) / max(1, done - stage.first) * (total - done)
            say(f"{what}: {done}/{total}, about {left:.0f} s left" if done < total else f"{what}: {total}/{total}")

    yield line


def table(rows: Sequence[tuple[str, ...]], header: tuple[str, ...]) -> None:
    """A plain table on standard output."""
    from rich.table import Table
    from rich.text import Text

    grid = Table(*header, box=None, pad_edge=False)
    for column in grid.columns:
        column.overflow = "fold"  # cut off by an ellipsis, a time or a hash tells nothing
    for row in rows:
        grid.add_row(*(Text(cell) for cell in row))
    Console(highlight=False).print(grid)
