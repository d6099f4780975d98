"""excise update: add concepts to an edit, or remove some from it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Optional

import typer

from excise.cli import options as o
from excise.cli.keeping import asked, read_run

LEDGER = "ledger.jsonl"
MAKING = ("erase", "update", "fuse", "import")  # commands whose run folder holds an edit


@dataclass(frozen=True, kw_only=True)
class UpdateOptions:
    """The options of `excise update`."""

    run: Annotated[Path, typer.Argument(help="Run folder of excise erase, whose edit is replaced.")]
    add: Annotated[Optional[list[str]], typer.Option(help="A further concept to erase; repeatable.")] = None
    add_file: Annotated[
        Optional[Path],
        typer.Option(help="A file of further concepts to erase, in a format of erase --concept-file."),
    ] = None
    drop: Annotated[Optional[list[str]], typer.Option(help="A concept to restore; repeatable.")] = None
    kind: Annotated[
        Optional[str],
        typer.Option(help="Kind of the added concepts: object, instance, style, person or explicit."),
    ] = None
    model: o.EditModelOption = None
    preview: o.PreviewOption = None
    as_json: o.JsonOption = False
    source: o.Source


@o.command
def update(options: UpdateOptions) -> None:
    """Add or drop concepts in an existing edit of a closed form. The result equals an edit made with the new list.

    Text-encoder outputs are saved in the run folder, so that only new concepts are encoded.

    Example: excise update runs/takedowns --add fox --drop cat
    """
    from excise.cli import show
    from excise.cli.making import Making, finish
    from excise.concepts.concept import Concept, as_concepts
    from excise.concepts.concept_file import read_concepts
    from excise.edits.outline import located_edit
    from excise.errors import ConceptError, OutputError
    from excise.support.runs import EDIT_NAME, STATES, locked

    run, drop = options.run, options.drop or []
    names: list[str | Concept] = [*(options.add or [])]
    names += read_concepts(options.add_file, options.kind) if options.add_file else []
    new = as_concepts(names, options.kind) if names else []
    if not new and not drop:
        raise ConceptError("nothing to change; give --add, --add-file or --drop.")
    if options.model is not None:
        options.source.check(options.model)
    content = read_run(run)
    if content is not None and content.get("verb") not in MAKING:
        raise OutputError(
            f"{run} holds a finished run of excise {content.get('verb')}, which an update would replace; name the run "
            "folder of excise erase."
        )
    if (run / LEDGER).exists():
        raise OutputError(
            f"{run} is the folder of a policy, whose ledger tells what is in force; change the policy and run: excise "
            "apply"
        )
    located_edit(run / EDIT_NAME)  # refused before torch is imported

    from excise.edits.edit import Edit
    from excise.erasing.update import check_updatable, make_update, updated_concepts

    with locked(run):
        edit = Edit.load(run / EDIT_NAME)
        # Cheap checks come before the model is loaded.
        check_updatable(edit.record)
        updated_concepts(edit.record, new, drop)
        model = options.model or edit.record.base.model
        source = options.source if options.model else options.source.remembering(run / EDIT_NAME)
        o.check_no_slips(model, [c.name for c in new], "--add")
        o.warn_outside_canvas(model, [c.name for c in new])
        making = Making(
            "update",
            model,
            run,
            preview=options.preview,
            load_options=source.given(),
            as_json=options.as_json,
            request=asked("update", options),
        )
        revision = edit.record.base.revision
        family = source.load_for(edit.record.method, model, revision, draws=making.draws)
        with show.stages() as say:
            erasure = make_update(family, edit, new, drop, options.kind, run / STATES, say)
        finish(replace(making, preserve=erasure.edit.record.preserve), family, erasure.edit, erasure.seconds)
