"""The command line: one file for each command.

Exit status: 0 done; 1 a gate failed, and nothing else; 2 an error that a person can mend, told in one sentence; 70 a
defect of this program, with its traceback; 130 interrupted, 143 terminated; 141 the reader of the output
has gone.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, current_thread, main_thread
from typing import Annotated

import typer

from excise import __version__
from excise.cli import canvas
from excise.cli.apply import apply
from excise.cli.attack import attack
from excise.cli.bench import bench
from excise.cli.compare import compare
from excise.cli.demo import demo
from excise.cli.diff import diff
from excise.cli.doctor import doctor
from excise.cli.erase import erase
from excise.cli.evaluate import evaluate
from excise.cli.export import export
from excise.cli.fuse import fuse
from excise.cli.generate import generate
from excise.cli.import_ import import_
from excise.cli.inspect import inspect
from excise.cli.judge import judge
from excise.cli.ledger import ledger
from excise.cli.list_ import list_
from excise.cli.methods import methods
from excise.cli.protocols import protocols
from excise.cli.push import push
from excise.cli.sequence import sequence
from excise.cli.update import update
from excise.errors import ExciseError, ExciseWarning, GatesFailed

app = typer.Typer(
    name="excise",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Remove concepts from text-to-image diffusion models: precisely, with proof, reversibly.",
)
COLLECT_AFTER = 20_000
"""Objects made between two searches for cycles; importing torch and diffusers makes millions that stay."""
EDITING = (demo, erase, update, fuse, apply, import_, generate, export, push)
MEASURING = (evaluate, judge, sequence, attack, bench, compare)
SHOWING = (list_, inspect, diff, ledger, methods, protocols, doctor)
for panel, verbs in (("Change a model", EDITING), ("Measure a model", MEASURING), ("Look", SHOWING)):
    for verb in verbs:
        app.command(verb.__name__.rstrip("_"), rich_help_panel=panel)(verb)
app.add_typer(canvas.app, name="canvas", rich_help_panel="Train the built-in models")


DEFECT, INTERRUPTED, NO_READER, TERMINATED = 70, 130, 141, 143


def _version(asked: bool) -> None:
    """Print the version."""
    if asked:
        print(f"excise {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_version, help="Print the version.")
    ] = False,
) -> None:
    """Remove concepts from text-to-image diffusion models: precisely, with proof, reversibly."""


def run() -> None:
    """Entry point of the `excise` command."""
    warnings.showwarning = _shown_once()
    gc.set_threshold(COLLECT_AFTER)
    if "OMP_WAIT_POLICY" not in os.environ:
        # Threads of torch that wait for work spin a shorter time than they would before they sleep: spinning takes a
        # core from the one that works, and sleeping at once makes drawing a sixth slower.
        os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    with _terminable() as terminated:
        _run(terminated)


def _run(terminated: Event) -> None:
    """Run the command, and end with the status that its end has."""
    try:
        app(prog_name="excise")
    except GatesFailed:
        sys.exit(1)
    except ExciseError as error:
        print(f"excise: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(_interrupted(terminated))
    except SystemExit as stop:
        status = _status(stop)
        if status == INTERRUPTED and not isinstance(stop.__context__, typer.Abort):
            status = _interrupted(terminated)
        sys.exit(status)
    except Exception as error:
        sys.exit(_unforeseen(error))


@contextmanager
def _terminable() -> Iterator[Event]:
    """Let a request to terminate clean up as Ctrl-C does inside the block; yield whether there was one."""
    terminated = Event()

    def terminate(*_: object) -> None:
        terminated.set()
        raise KeyboardInterrupt

    if current_thread() is not main_thread():
        yield terminated
        return
    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield terminated
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupted(terminated: Event) -> int:
    """Tell of an interruption, and return the exit status."""
    print(
        "excise: interrupted; nothing half-written is left, and the same command goes on from what is finished.",
        file=sys.stderr,
    )
    return TERMINATED if terminated.is_set() else INTERRUPTED


def _status(stop: SystemExit) -> int | str | None:
    """The status of an exit; those of typer's that would look like a failed gate get their own."""
    if stop.code == 1 and isinstance(stop.__context__, OSError):
        return NO_READER
    if stop.code == 1 and isinstance(stop.__context__, typer.Abort):
        return INTERRUPTED
    return stop.code


def _unforeseen(error: Exception) -> int:
    """Tell of an error that no command foresaw, and return the exit status."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        print(
            "excise: the memory ran out; draw fewer images at once (--batch), load the model with "
            "--dtype float16, or use another --device.",
            file=sys.stderr,
        )
        return 2
    if isinstance(error, OSError) and error.strerror:
        where = f" ({error.filename})" if error.filename else ""
        print(f"excise: the system refused: {error.strerror}{where}; mend that and run it again.", file=sys.stderr)
        return 2
    traceback.print_exception(error, file=sys.stderr)
    print(
        f"excise: a defect of excise {__version__}, not of your input; please report it with the lines above.",
        file=sys.stderr,
    )
    return DEFECT


def _shown_once() -> Callable[..., None]:
    """Return a function that prints our own warnings as a sentence, each once, and none of other libraries."""
    said: set[str] = set()

    def show(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
        if issubclass(category, ExciseWarning) and str(message) not in said:
            said.add(str(message))
            print(f"excise: warning: {message}", file=sys.stderr)

    return show


if __name__ == "__main__":
    run()
