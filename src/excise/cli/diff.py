"""excise diff: compare two edits."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from excise.cli import options as o

if TYPE_CHECKING:
    from excise.edits.difference import EditDifference, PathDifference

MOST_PATHS, MOST_TEXT = 12, 60


def diff(
    one: Annotated[Path, typer.Argument(help="An edit file.")],
    two: Annotated[Path, typer.Argument(help="The edit file to compare it with.")],
    as_json: o.JsonOption = False,
) -> None:
    """Compare two edits: concepts, settings, and the change of every weight. Needs no model.

    Example: excise diff runs/cat/edit.safetensors runs/cat-gentle/edit.safetensors
    """
    from excise.cli import show
    from excise.edits.outline import located_edit

    one_file, two_file = located_edit(one), located_edit(two)  # refused before torch is imported
    from excise.edits.difference import compared
    from excise.edits.edit import Edit

    difference = compared(Edit.load(one_file), Edit.load(two_file))
    if as_json:
        show.print_json(document(difference, one, two))
        return
    _print(difference, one, two)


def document(difference: EditDifference, one: Path, two: Path) -> dict[str, Any]:
    """The JSON document of `excise diff`."""
    return {
        "one": str(one),
        "two": str(two),
        "same_tensors": difference.same,
        "record": {name: {"one": a, "two": b} for name, (a, b) in difference.record.items()},
        "norms": list(difference.norms),
        "cosine": difference.cosine,
        "difference": difference.difference,
        "hooks": difference.hooks,
        "weights": [
            {"path": p.path, "part": p.part, "norms": list(p.norms), "cosine": p.cosine, "difference": p.difference}
            for p in difference.paths
        ],
    }


def _print(difference: EditDifference, one: Path, two: Path) -> None:
    """Print the sentence that matters, what differs in the records, and the weights that differ most."""
    from excise.cli import show

    show.say(_summary(difference))
    rows = [(name, _text(a), _text(b)) for name, (a, b) in difference.record.items()]
    if rows:
        show.table(rows, ("record", str(one), str(two)))
    unequal = sorted((p for p in difference.paths if p.difference != 0), key=_size, reverse=True)
    if not unequal:
        return
    shown = [
        (
            p.path,
            p.part,
            *(f"{norm:.4g}" if norm else "not changed" for norm in p.norms),
            "–" if p.cosine is None else f"{p.cosine:.4f}",
            "other shape" if p.difference is None else f"{p.difference:.4g}",
        )
        for p in unequal[:MOST_PATHS]
    ]
    show.table(shown, ("weight", "of", "norm, first", "norm, second", "cosine", "norm of difference"))
    if len(unequal) > MOST_PATHS:
        show.say(f"{len(unequal) - MOST_PATHS} more weights differ; --json names them all")


def _summary(difference: EditDifference) -> str:
    """One sentence on the tensors."""
    if difference.same:
        return "both edits change the model in exactly the same way" + (
            "; their records differ" if difference.record else ""
        )
    first, second = difference.norms
    distance, cosine = difference.difference, difference.cosine
    if distance is None:
        return "the edits change weights of different shapes, so they are for different models"
    relative = f", {distance / first:.1%} of the first edit's" if first else ""
    direction = "" if cosine is None else f"; cosine {cosine:.4f}"
    hooks = [kind for kind, same in difference.hooks.items() if not same]
    acting = f"; hooks that differ: {', '.join(hooks)}" if hooks else ""
    return (
        f"the edits differ: norms {first:.4g} and {second:.4g}, norm of the difference {distance:.4g}{relative}"
        f"{direction}{acting}"
    )


def _size(path: PathDifference) -> float:
    return float("inf") if path.difference is None else path.difference


def _text(value: Any) -> str:
    """A value of a record, short enough for a table."""
    if value is None:
        return "–"
    if isinstance(value, Mapping):
        text = ", ".join(f"{k}: {v}" for k, v in value.items() if v not in ("", [], None))
    elif isinstance(value, (list, tuple)):
        text = ", ".join(map(str, value))
    else:
        text = str(value)
    return text if len(text) <= MOST_TEXT else text[: MOST_TEXT - 3] + "..."
