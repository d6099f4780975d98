"""excise fuse: several edits as one that disturbs each of them least."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Optional

import typer

from excise.cli import options as o


@o.with_source
def fuse(
    files: Annotated[list[Path], typer.Argument(help="Edit files made for one model.")],
    out: Annotated[Path, typer.Option(help="Run folder to write.")],
    model: Annotated[
        Optional[str],
        typer.Option("--model", "-m", help="The model they are for; the one they were made on by default."),
    ] = None,
    preserve: o.PreserveOption = None,
    preserve_file: o.PreserveFileOption = None,
    vocabulary: o.VocabularyOption = "auto",
    retain_scale: Annotated[float, typer.Option(min=0, help="Weight of what is kept.")] = 1.0,
    ridge: Annotated[float, typer.Option(help="Pull towards the original weights; larger is gentler.")] = 0.5,
    preview: o.PreviewOption = None,
    as_json: o.JsonOption = False,
    *,
    source: o.Source,
) -> None:
    """Fuse edits made one by one (LoRAs of trained methods too) into one, so that they do not disturb each other.

    Example: excise fuse runs/cat/edit.safetensors runs/dog/edit.safetensors --out runs/both
    """
    from excise.cli.making import finish
    from excise.edits.edit import Edit
    from excise.edits.fuse import fuse as fuse_edits
    from excise.errors import SettingError
    from excise.support.files import make_folder

    if ridge <= 0:
        raise SettingError(f"--ridge was {ridge:g}; expected a number above 0.")
    names = o.kept_names(preserve, preserve_file)
    edits = [Edit.load(f) for f in files]
    make_folder(out)
    name = model or edits[0].record.base.model
    family = source.load(name, edits[0].record.base.revision)
    began = time.perf_counter()
    made = fuse_edits(
        family,
        edits,
        preserve=names,
        vocabulary=vocabulary,
        retain_scale=retain_scale,
        ridge=ridge,
    )
    timings = {"solve": time.perf_counter() - began}
    loaded = source.given()
    finish("fuse", family, made, name, out, timings, preserve=names, preview=preview, loaded=loaded, as_json=as_json)
