"""excise import: another tool's result as an edit."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from excise.cli import options as o


@o.with_source
def import_(
    file: Annotated[Path, typer.Argument(help="A file or folder that another tool wrote.")],
    concept: Annotated[list[str], typer.Option("--concept", "-c", help="What it is said to have erased; repeatable.")],
    out: Annotated[Path, typer.Option(help="Run folder to write: edit.safetensors, run.json, report.html.")],
    model: o.ModelOption = "canvas-sd",
    kind: o.KindOption = None,
    preview: o.PreviewOption = None,
    as_json: o.JsonOption = False,
    preserve: o.PreserveOption = None,
    *,
    source: o.Source,
) -> None:
    """Read a UNet, partial weights, a text encoder, a LoRA or its like, a folder or a single file as an edit.

    Example: excise import erased_unet.pt --model ./sd15 --concept "Van Gogh" --out runs/theirs
    """
    from time import perf_counter

    from excise.cli import making
    from excise.importing.import_edit import import_edit
    from excise.support.files import make_folder
    from excise.support.runs import locked

    make_folder(out)
    with locked(out):
        family = source.load(model)
        began = perf_counter()
        made = import_edit(file, family, concept, kind=kind, model_name=model)
        timings = {"read": perf_counter() - began}
        making.finish(
            "import",
            family,
            made,
            model,
            out,
            timings,
            preserve=preserve or (),
            preview=preview,
            loaded=source.given(),
            as_json=as_json,
        )
