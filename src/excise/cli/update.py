"""excise update: concepts added to an edit, or taken out of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from excise.cli import options as o


@o.with_source
def update(
    run: Annotated[Path, typer.Argument(help="Run folder of `excise erase`; its edit is replaced.")],
    add: Annotated[Optional[list[str]], typer.Option(help="A concept to erase as well; repeatable.")] = None,
    add_file: Annotated[
        Optional[Path], typer.Option(help="Concepts to erase as well, as erase --concept-file takes them.")
    ] = None,
    drop: Annotated[Optional[list[str]], typer.Option(help="A concept to give back; repeatable.")] = None,
    kind: Annotated[
        Optional[str], typer.Option(help="Of those added: object, instance, style, person, explicit.")
    ] = None,
    model: o.EditModelOption = None,
    preview: o.PreviewOption = None,
    as_json: o.JsonOption = False,
    *,
    source: o.Source,
) -> None:
    """Make a closed-form edit again with other concepts, as if it had been made so from the start.

    Text states are kept in the run folder, so that only new concepts are encoded.

    Example: excise update runs/takedowns --add fox --drop cat
    """
    from excise.cli.making import finish
    from excise.concepts.concept import Concept, as_concepts
    from excise.concepts.concept_file import read_concepts
    from excise.edits.edit import Edit
    from excise.erasing.update import check_updatable, make_update, updated_concepts
    from excise.errors import ConceptError
    from excise.support.runs import EDIT_NAME, STATES, locked

    asked: list[str | Concept] = [*(add or []), *(read_concepts(add_file, kind) if add_file else [])]
    new = as_concepts(asked, kind) if asked else []
    if not new and not drop:
        raise ConceptError("nothing to change; give --add, --add-file or --drop.")
    with locked(run):
        edit = Edit.load(run / EDIT_NAME)
        check_updatable(edit.record)
        updated_concepts(edit.record, new, drop or [])  # cheap checks first, the model later
        name = model or edit.record.base.model
        family = source.load(name, edit.record.base.revision)
        made = make_update(family, edit, new, drop or [], run / STATES)
        finish(
            "update",
            family,
            made.edit,
            name,
            run,
            made.seconds,
            preserve=made.edit.record.preserve,
            preview=preview,
            loaded=source.given(),
            as_json=as_json,
        )
