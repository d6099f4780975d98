"""excise export: write an edit in a format that another program loads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from excise.cli import options as o

if TYPE_CHECKING:
    from excise.exporting import Exported

FORMAT = (
    "The format: kohya-lora (most programs), diffusers-lora (diffusers only), merged (a pipeline folder) or "
    "single-file (a model in the original layout). By default the one that the program of --for reads; without --for, "
    "kohya-lora for sd and sdxl and diffusers-lora for other families."
)


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """The options of `excise export`."""

    file: Annotated[Path, typer.Argument(help="The edit file.")]
    out: Annotated[Path, typer.Option(help="Folder to write to.")]
    for_: Annotated[
        Optional[str],
        typer.Option(
            "--for",
            help="The program that will load it: comfyui, webui, invokeai, sd-cpp, sd-scripts or diffusers.",
        ),
    ] = None
    format: Annotated[Optional[str], typer.Option(help=FORMAT)] = None
    model: o.EditModelOption = None
    allow_other_base: o.OtherBaseOption = False
    as_json: o.JsonOption = False
    source: o.Source


@o.command
def export(options: ExportOptions) -> None:
    """Write an edit as a LoRA or a whole model for another program; print how exact it is and which programs read it.

    Example: excise export runs/cat/edit.safetensors --for comfyui --out shipped
    """
    from excise.edits.edit import Edit
    from excise.errors import unknown
    from excise.exporting import FORMATS
    from excise.exporting import export as export_edit
    from excise.exporting.readers import reader

    if options.format is not None and options.format not in FORMATS:
        raise unknown("export format", options.format, FORMATS)
    if options.for_ is not None:
        reader(options.for_)
    options.source.check(options.model)
    edit = Edit.load(options.file)
    family = options.source.load(options.model or edit.record.base.model, edit.record.base.revision)
    exported = export_edit(
        edit, family, options.out, options.format, for_=options.for_, allow_other_base=options.allow_other_base
    )
    _print(options, exported)


def _print(options: ExportOptions, exported: Exported) -> None:
    from excise.cli import show
    from excise.exporting.readers import describe

    path = exported.path
    if options.as_json:
        result = {"path": str(path), "format": exported.format, "rank": exported.rank, "relative_error": exported.error}
        readers = {
            n: {"version": r.version, "taken": r.taken, "maps": r.maps, "missed": r.missed}
            for n, r in exported.readers.items()
        }
        show.print_json({**result, "readers": readers})
        return
    rank = f"rank {exported.rank}, " if exported.rank else ""
    exactness = f"relative error {exported.error:.1e}" if exported.error else "exact copy of the edit"
    show.say(f"{path}: {exported.format}, {rank}{exactness}")
    for line in describe(exported.readers):
        show.say(line)
    if options.for_ is not None and not exported.readers[options.for_].whole:
        program = exported.readers[options.for_].program
        show.say(f"without --format {options.format}, a format is chosen that {program} reads completely")
    if exported.format == "diffusers-lora":
        show.say(f"load it: pipe.load_lora_weights('{path.parent}', weight_name='{path.name}')")
