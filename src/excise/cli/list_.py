"""excise list: list the runs and edits below a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from excise.cli import options as o


def list_(
    folder: Annotated[Path, typer.Argument(help="The folder to search.")] = Path(),
    as_json: o.JsonOption = False,
) -> None:
    """List the runs and edits below a folder: concepts, method, model, size and status of each.

    Example: excise list runs
    """
    from excise.cli import show
    from excise.cli.listing import found_below
    from excise.errors import ExciseError
    from excise.evaluation.catalog import number
    from excise.support.display import some

    if not folder.is_dir():
        raise ExciseError(f"there is no folder {folder} to search; name one that holds runs, or leave it out.")
    rows = found_below(folder)
    if as_json:
        show.print_json([row.as_dict() for row in rows])
        return
    if not rows:
        show.say(f"no runs and no edits below {folder}; excise erase makes one.")
        return
    lines = [
        (
            row.path,
            row.run,
            some(row.concepts, 4),
            row.method,
            row.model,
            "" if row.bytes is None else number(row.bytes, "bytes"),
            row.status,
        )
        for row in rows
    ]
    show.table(lines, ("where", "run", "concepts", "method", "model", "edit", "status"))
