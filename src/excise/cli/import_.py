"""excise import: read the result of another tool as an edit."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Optional

import typer

from excise.cli import options as o


@dataclass(frozen=True, kw_only=True)
class ImportOptions:
    """The options of `excise import`."""

    file: Annotated[Path, typer.Argument(help="A file or folder that another tool, or excise export, wrote.")]
    out: Annotated[Path, typer.Option(help="Run folder to write: edit.safetensors, run.json, report.html.")]
    concept: Annotated[
        Optional[list[str]],
        typer.Option(
            "--concept",
            "-c",
            help="A concept that the file erases; repeatable. What excise export wrote names its own.",
        ),
    ] = None
    model: o.ModelOption = "canvas-sd"
    kind: o.KindOption = None
    preview: o.PreviewOption = None
    as_json: o.JsonOption = False
    preserve: o.PreserveOption = None
    source: o.Source


@o.command
def import_(options: ImportOptions) -> None:
    """Read a UNet, partial weights, a text encoder, a LoRA or its like, a folder or a single file as an edit.

    Example: excise import erased_unet.pt --model ./sd15 --concept "Van Gogh" --out runs/theirs
    """
    from time import perf_counter

    from excise.cli import show
    from excise.cli.making import Making, finish
    from excise.importing.import_edit import import_edit
    from excise.support.files import make_folder
    from excise.support.runs import locked

    make_folder(options.out)
    with locked(options.out):
        family = options.source.load(options.model)
        began = perf_counter()
        with show.waiting(f"reading {options.file}"):
            edit = import_edit(options.file, family, options.concept or (), kind=options.kind, model_name=options.model)
        seconds = {"read": perf_counter() - began}
        making = Making(
            "import",
            options.model,
            options.out,
            tuple(options.preserve or ()),
            options.preview,
            load_options=options.source.given(),
            as_json=options.as_json,
        )
        finish(making, family, edit, seconds)
