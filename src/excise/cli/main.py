"""The command line: one file for each command; an error is one sentence and exit status 2."""

from __future__ import annotations

import sys
import warnings

import typer

from excise.cli import canvas
from excise.cli.apply import apply
from excise.cli.attack import attack
from excise.cli.bench import bench
from excise.cli.compare import compare
from excise.cli.demo import demo
from excise.cli.doctor import doctor
from excise.cli.erase import erase
from excise.cli.evaluate import evaluate
from excise.cli.export import export
from excise.cli.fuse import fuse
from excise.cli.generate import generate
from excise.cli.import_ import import_
from excise.cli.inspect import inspect
from excise.cli.ledger import ledger
from excise.cli.methods import methods
from excise.cli.protocols import protocols
from excise.cli.update import update
from excise.errors import ExciseError, ExciseWarning

app = typer.Typer(
    name="excise",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Remove concepts from text-to-image diffusion models: precisely, with proof, reversibly.",
)
EDITING = (demo, erase, update, fuse, apply, import_, generate, export)
MEASURING = (evaluate, attack, bench, compare)
SHOWING = (inspect, ledger, methods, protocols, doctor)
for panel, verbs in (("Change a model", EDITING), ("Measure a model", MEASURING), ("Look", SHOWING)):
    for verb in verbs:
        app.command(verb.__name__.rstrip("_"), rich_help_panel=panel)(verb)
app.add_typer(canvas.app, name="canvas", rich_help_panel="Train the built-in models")


def run() -> None:
    """Entry point of the `excise` command."""
    warnings.showwarning = _show
    try:
        app()
    except ExciseError as error:
        print(f"excise: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("excise: interrupted", file=sys.stderr)
        sys.exit(130)


def _show(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
    """Print our own warnings as a sentence, and none of other libraries."""
    if issubclass(category, ExciseWarning):
        print(f"excise: warning: {message}", file=sys.stderr)


if __name__ == "__main__":
    run()
