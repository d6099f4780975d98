"""excise import: read the result of another tool as an edit."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Optional

import typer

from excise.cli import options as o
from excise.cli.keeping import ForceOption, asked, check_apart, finished


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
    force: ForceOption = False
    source: o.Source


@o.command
def import_(options: ImportOptions) -> None:
    """Read a UNet, partial weights, a text encoder, a LoRA or its like, a folder or a single file as an edit.

    Example: excise import erased_unet.pt --model ./sd15 --concept "Van Gogh" --out runs/theirs
    """
    from time import perf_counter

    from excise.cli import show
    from excise.cli.making import Making, answer, finish
    from excise.concepts.concept import as_concepts
    from excise.concepts.known_names import warn_of_names
    from excise.errors import EditFileError
    from excise.families.built_in import names_built_in
    from excise.support.runs import EDIT_NAME, SHOWN, run_folder

    concepts = as_concepts(options.concept, options.kind) if options.concept else []
    if not options.file.exists():
        raise EditFileError(f"there is no file or folder {options.file}; give the result of another tool.")
    options.source.check(options.model)
    check_apart(options.out, [options.file], "the file")
    request = asked("import", options)
    making = Making(
        "import",
        options.model,
        options.out,
        tuple(options.preserve or ()),
        options.preview,
        load_options=options.source.given(),
        as_json=options.as_json,
        request=request,
    )
    if (earlier := finished(options.out, request, force=options.force, writes=[EDIT_NAME])) is not None:
        answer(making, earlier)
        return
    if names_built_in(options.model):
        o.check_no_slips(options.model, [c.name for c in concepts])
        o.warn_outside_canvas(options.model, [c.name for c in concepts])
    else:
        warn_of_names(concepts, options.kind)

    from excise.importing.import_edit import import_edit

    with run_folder(options.out, SHOWN):
        family = options.source.load(options.model, whole=False)
        began = perf_counter()
        with show.waiting(f"reading {options.file}"):
            edit = import_edit(options.file, family, options.concept or (), kind=options.kind, model_name=options.model)
        seconds = {"read": perf_counter() - began}
        finish(making, family, edit, seconds)
