"""excise fuse: combine several edits into one."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from excise.cli import options as o
from excise.cli.keeping import ForceOption, asked, check_apart, finished

if TYPE_CHECKING:
    from excise.cli.keeping import Asked
    from excise.cli.making import Making


@dataclass(frozen=True, kw_only=True)
class FuseOptions:
    """The options of `excise fuse`."""

    files: Annotated[list[Path], typer.Argument(help="Edit files made for the same model.")]
    out: Annotated[Path, typer.Option(help="Run folder to write: edit.safetensors, run.json, report.html.")]
    model: Annotated[
        Optional[str],
        typer.Option("--model", "-m", help="The model that the edits are for; by default the one of the first edit."),
    ] = None
    preserve: o.PreserveOption = None
    preserve_file: o.PreserveFileOption = None
    vocabulary: o.VocabularyOption = "auto"
    retain_scale: Annotated[float, typer.Option(min=0, help="Weight of the preserved names; larger retains more.")] = (
        1.0
    )
    ridge: Annotated[float, typer.Option(help="Pull towards the original weights; larger changes them less.")] = 0.5
    preview: o.PreviewOption = None
    force: ForceOption = False
    as_json: o.JsonOption = False
    source: o.Source


@o.command
def fuse(options: FuseOptions) -> None:
    """Combine edits that were made one by one (LoRAs of trained methods too) into one, with the least interference.

    Example: excise fuse runs/cat/edit.safetensors runs/dog/edit.safetensors --out runs/both
    """
    from excise.cli import show
    from excise.cli.making import answer, finish
    from excise.errors import ConceptError, SettingError
    from excise.support.runs import EDIT_NAME, SHOWN, run_folder

    if options.ridge <= 0:
        raise SettingError(f"--ridge was {options.ridge:g}; expected a number above 0.")
    if len(options.files) < 2:
        raise ConceptError("fusing needs at least two edits; give more, or use this one as it is.")
    preserve = o.names_to_preserve(options.preserve, options.preserve_file)
    options.source.check(options.model)
    check_apart(options.out, options.files, "the edit")
    request = asked("fuse", options)
    earlier = finished(options.out, request, force=options.force, writes=[EDIT_NAME])
    if earlier is not None:
        model = options.model or earlier["record"]["base"]["model"]
        answer(_making(options, model, preserve, request, options.source.given()), earlier)
        return

    from excise.edits.edit import Edit
    from excise.edits.fuse import fuse as fuse_edits

    edits = [Edit.load(f) for f in options.files]
    with run_folder(options.out, SHOWN):
        model = options.model or edits[0].record.base.model
        source = options.source if options.model else options.source.remembering(options.files[0])
        family = source.load(model, edits[0].record.base.revision)
        began = time.perf_counter()
        with show.stages() as say:
            edit = fuse_edits(
                family,
                edits,
                preserve=preserve,
                vocabulary=options.vocabulary,
                retain_scale=options.retain_scale,
                ridge=options.ridge,
                say=say,
            )
        seconds = {"solve": time.perf_counter() - began}
        finish(_making(options, model, preserve, request, source.given()), family, edit, seconds)


def _making(options: FuseOptions, model: str, preserve: list[str], request: Asked, loaded: str) -> Making:
    """The request as the common end of the commands takes it."""
    from excise.cli.making import Making

    return Making(
        "fuse",
        model,
        options.out,
        tuple(preserve),
        options.preview,
        load_options=loaded,
        as_json=options.as_json,
        request=request,
    )
