"""excise export: an edit in the forms that other tools load."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from excise.cli import options as o


@o.with_source
def export(
    file: Annotated[Path, typer.Argument(help="The edit file.")],
    out: Annotated[Path, typer.Option(help="Folder to write to.")],
    format: Annotated[str, typer.Option(help="diffusers-lora, kohya-lora or merged.")] = "diffusers-lora",
    model: o.EditModelOption = None,
    allow_other_base: o.OtherBaseOption = False,
    as_json: o.JsonOption = False,
    *,
    source: o.Source,
) -> None:
    """Write an edit as a diffusers LoRA, a kohya LoRA or a merged pipeline folder, and say how exact that is.

    Example: excise export runs/cat/edit.safetensors --format diffusers-lora --out shipped
    """
    from excise.cli import show
    from excise.edit import Edit
    from excise.errors import unknown
    from excise.exporting import FORMATS
    from excise.exporting import export as export_edit

    if format not in FORMATS:
        raise unknown("export format", format, FORMATS)
    edit = Edit.load(file)
    family = source.load(model or edit.record.base.model, edit.record.base.revision)
    done = export_edit(edit, family, out, format, allow_other_base=allow_other_base)
    result = {"path": str(done.path), "format": done.format, "rank": done.rank, "relative_error": done.error}
    if as_json:
        show.print_json(result)
        return
    rank = f"rank {done.rank}, " if done.rank else ""
    show.say(f"{done.path}: {rank}off from the edit by {done.error:.1e} of its size")
    if format == "diffusers-lora":
        show.say(f"load it: pipe.load_lora_weights('{done.path.parent}', weight_name='{done.path.name}')")
