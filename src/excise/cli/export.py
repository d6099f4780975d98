"""excise export: write an edit in a format that another program loads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from excise.cli import options as o

if TYPE_CHECKING:
    from excise.edits.edit import Edit
    from excise.exporting import Exported
    from excise.families.base import Family

FORMAT = (
    "The format: kohya-lora (most programs of sd and sdxl), comfyui-lora (most programs of diffusion transformers), "
    "diffusers-lora, merged (a pipeline folder) or single-file (a model in the original layout); repeatable. By "
    "default the one that the program of --for reads; without --for, the LoRA that most programs read."
)


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """The options of `excise export`."""

    file: Annotated[Path, typer.Argument(help="The edit file, or its run folder.")]
    out: Annotated[Path, typer.Option(help="Folder to write to.")]
    for_: Annotated[
        Optional[list[str]],
        typer.Option(
            "--for",
            help="The program that will load it: comfyui, webui, invokeai, sd-cpp, sd-scripts, diffusers, nunchaku, "
            "onetrainer, musubi or ai-toolkit; repeatable.",
        ),
    ] = None
    format: Annotated[Optional[list[str]], typer.Option(help=FORMAT)] = None
    model: o.EditModelOption = None
    allow_other_base: o.OtherBaseOption = False
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier export of another edit in --out.")] = False
    as_json: o.JsonOption = False
    source: o.Source

    def wanted(self) -> list[tuple[str | None, str | None]]:
        """Each export to write as (format, program); the model is loaded once for all of them.

        Raises:
            UnknownNameError: no such format or program.
            SettingError: several formats for several programs, which pairs nothing with nothing.
        """
        from excise.edits.exports import FORMATS, PROGRAMS
        from excise.errors import SettingError, unknown

        formats, programs = list(dict.fromkeys(self.format or [])), list(dict.fromkeys(self.for_ or []))
        for format in formats:
            if format not in FORMATS:
                raise unknown("export format", format, FORMATS)
        for program in programs:
            if program not in PROGRAMS:
                raise unknown("program", program, PROGRAMS)
        if len(formats) > 1 and len(programs) > 1:
            raise SettingError("--format and --for are both given several times; repeat one of them alone.")
        return [(format, program) for format in (*formats,) or (None,) for program in (*programs,) or (None,)]


@o.command
def export(options: ExportOptions) -> None:
    """Write an edit as a LoRA or a whole model for another program, with a model card; print which programs read it.

    The run folder of the edit tells how the model is loaded (--config, --variant, --dtype).

    Example: excise export runs/cat/edit.safetensors --for comfyui --out shipped
    """
    from excise.edits.outline import located_edit

    wanted = options.wanted()
    options.source.check(options.model)
    located_edit(options.file)  # refused before torch is imported

    from excise.cli import show
    from excise.edits.edit import Edit
    from excise.exporting import export as export_edit
    from excise.support.runs import new_folder

    edit = Edit.load(options.file)
    source = options.source if options.model else options.source.remembering(options.file)
    family = _family(options, source, edit)
    exports: dict[Path, tuple[Exported, str | None]] = {}
    several = len({format for format, _ in wanted}) > 1  # formats, each of which gets a folder
    with new_folder(options.out), show.stages() as say:
        for number, (format, program) in enumerate(wanted):
            say("writing", number, len(wanted))
            exported = export_edit(
                edit,
                family,
                options.out if len(wanted) == 1 else options.out / (str(format) if several else str(program)),
                format,
                for_=program,
                allow_other_base=options.allow_other_base,
                source=options.file,
                force=options.force,
            )
            exports[exported.path] = exported, program
        say("writing", len(wanted), len(wanted))
    if options.as_json:
        documents = [_document(exported) for exported, _ in exports.values()]
        show.print_json(documents[0] if len(wanted) == 1 else {"exports": documents})
        return
    for exported, program in exports.values():
        _print(exported, program, edit)


def _family(options: ExportOptions, source: o.Source, edit: Edit) -> Family:
    """The adapter of the edit's model: of its outline, where that is enough for what is written."""
    from excise.exporting import choose_format
    from excise.exporting.readers import LORA
    from excise.families.outline import is_outline

    model = options.model or edit.record.base.model, edit.record.base.revision
    # The text encoders of an outline have no weights.
    outline = not options.allow_other_base and not any(path.startswith("text_encoder") for path in edit.paths)
    family: Family = source.outline(*model) if outline else source.load(*model, whole=False)
    if is_outline(family) and any((f or choose_format(edit, family, p)) not in LORA for f, p in options.wanted()):
        family = source.load(*model, whole=False)
    return family


def _document(exported: Exported) -> dict[str, Any]:
    readers = {
        n: {"version": r.version, "taken": r.taken, "maps": r.maps, "missed": r.missed, "silent": r.silent}
        for n, r in exported.readers.items()
    }
    return {
        "path": str(exported.path),
        "format": exported.format,
        "rank": exported.rank,
        "relative_error": exported.error,
        "readers": readers,
        "card": str(exported.card) if exported.card else None,
        "ungated": exported.ungated,
    }


def _print(exported: Exported, program: str | None, edit: Edit) -> None:
    from excise.cli import show
    from excise.exporting.readers import describe
    from excise.exporting.usage import usage

    path = exported.path
    rank = f"rank {exported.rank}, " if exported.rank else ""
    exactness = f"relative error {exported.error:.1e}" if exported.error else "exact copy of the edit"
    exactness += ", without its gates" if exported.ungated else ""
    show.say(f"{path}: {exported.format}, {rank}{exactness}")
    for line in describe(exported.readers):
        show.say(line)
    reading = exported.readers.get(program or "")
    if reading is not None and not reading.whole:
        name = reading.program
        show.say(f"Without --format {exported.format}, a format is chosen that {name} reads completely.")
    base = edit.record.base
    for text in usage(exported.format, [program] if program else [], path.name, Path(base.model).name, "", base.family):
        if "```" not in text:
            show.say(f"load it:    {text.replace('**', '').replace('`', '')}")
    if exported.format == "diffusers-lora":
        show.say(f"load it:    pipe.load_lora_weights('{path.parent}', weight_name='{path.name}')")
    if exported.card is None:
        show.say("There is no model card: README.md and EXCISE.md are there, and excise export did not write them.")
    else:
        show.say(f"model card: {exported.card}")
