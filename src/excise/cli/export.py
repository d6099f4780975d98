"""excise export: an edit in the forms that other tools load."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from excise.cli import options as o

FORMAT = (
    "kohya-lora (most programs), diffusers-lora (diffusers alone), merged (a pipeline folder) or single-file (a model "
    "in the original layout). By default what --for reads; without it kohya-lora for sd and sdxl, else diffusers-lora."
)


@o.with_source
def export(
    file: Annotated[Path, typer.Argument(help="The edit file.")],
    out: Annotated[Path, typer.Option(help="Folder to write to.")],
    for_: Annotated[
        str | None,
        typer.Option("--for", help="Program it is for: comfyui, webui, invokeai, sd-cpp, sd-scripts or diffusers."),
    ] = None,
    format: Annotated[str | None, typer.Option(help=FORMAT)] = None,
    model: o.EditModelOption = None,
    allow_other_base: o.OtherBaseOption = False,
    as_json: o.JsonOption = False,
    *,
    source: o.Source,
) -> None:
    """Write an edit as a LoRA or a whole model for another program, and say how exact it is and who reads how much.

    Example: excise export runs/cat/edit.safetensors --for comfyui --out shipped
    """
    from excise.cli import show
    from excise.edits.edit import Edit
    from excise.errors import unknown
    from excise.exporting import FORMATS
    from excise.exporting import export as export_edit
    from excise.exporting.readers import describe, reader

    if format is not None and format not in FORMATS:
        raise unknown("export format", format, FORMATS)
    if for_ is not None:
        reader(for_)
    edit = Edit.load(file)
    family = source.load(model or edit.record.base.model, edit.record.base.revision)
    done = export_edit(edit, family, out, format, for_=for_, allow_other_base=allow_other_base)
    if as_json:
        readers = {
            n: {"version": r.version, "taken": r.taken, "maps": r.maps, "missed": r.missed}
            for n, r in done.readers.items()
        }
        result = {"path": str(done.path), "format": done.format, "rank": done.rank, "relative_error": done.error}
        show.print_json({**result, "readers": readers})
        return
    rank = f"rank {done.rank}, " if done.rank else ""
    show.say(f"{done.path}: {done.format}, {rank}off from the edit by {done.error:.1e} of its size")
    for line in describe(done.readers):
        show.say(line)
    if for_ is not None and not done.readers[for_].whole:
        show.say(f"leave out --format {format}, and what {done.readers[for_].program} reads whole is chosen")
    if done.format == "diffusers-lora":
        show.say(f"load it: pipe.load_lora_weights('{done.path.parent}', weight_name='{done.path.name}')")
