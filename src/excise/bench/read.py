"""Reading finished runs, of `excise bench` and of `excise evaluate`, as benchmark cells to compare."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from excise.bench.recipe import Cell, MethodEntry
from excise.bench.run import CellResult
from excise.edits.record import KEY
from excise.errors import ExciseError
from excise.evaluation.result import Evaluation
from excise.protocols import check_comparable


class RunError(ExciseError):
    """A folder without a finished run to compare."""


def read_runs(folders: Sequence[Path]) -> list[CellResult]:
    """Read the cells of all folders, with full image paths. A method in two runs gets the run's name in its label.

    Raises:
        RunError: a folder holds neither a bench nor an evaluation, or is unfinished or damaged.
        IncomparableError: the runs are of different protocols.
    """
    runs = list(dict.fromkeys(folder.resolve() for folder in folders))
    cells = [(folder, d) for folder in runs for d in read_run(folder)]
    check_comparable([d.line() for _, d in cells])
    count = Counter(_identity(d) for _, d in cells)
    duplicates = {d.cell.method.title for _, d in cells if count[_identity(d)] > 1}
    unique_names = len({folder.name for folder in runs}) == len(runs)
    return [
        _labelled(d, folder.name if unique_names else str(folder)) if d.cell.method.title in duplicates else d
        for folder, d in cells
    ]


def read_run(folder: Path) -> list[CellResult]:
    """Read the cells of one folder, at least one.

    Raises:
        RunError: the folder holds neither a bench nor an evaluation, or is unfinished or damaged.
    """
    try:
        if (folder / "results.jsonl").is_file():
            return _bench(folder)
        if (folder / "run.json").is_file():
            return [_evaluation(folder)]
    except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
        raise RunError(
            f"the run {folder} is damaged or of another version ({type(error).__name__}); run it into a new folder."
        ) from error
    if (folder / "recipe.json").is_file():
        raise RunError(f"the bench {folder} is not finished; the same excise bench resumes it.")
    raise RunError(
        f"{folder} is not a run folder: it holds neither results.jsonl (excise bench) nor run.json (excise evaluate)."
    )


def _bench(folder: Path) -> list[CellResult]:
    """Read the cells of a benchmark."""
    keys = [json.loads(line)["key"] for line in (folder / "results.jsonl").read_text(encoding="utf-8").splitlines()]
    cells = []
    for key in keys:
        path = folder / "cells" / f"{key}.json"
        if not path.is_file():
            raise RunError(f"the bench {folder} lacks {path.name}; run the same excise bench again.")
        content = json.loads(path.read_text(encoding="utf-8"))
        images = [_inside(folder.resolve(), name) for name in content["images"]]
        result = Evaluation.model_validate(content["result"])
        cells.append(CellResult(Cell.model_validate(content["cell"]), result, images))
    if not cells:
        raise RunError(f"the bench {folder} has no results; run it again.")
    return cells


def _evaluation(folder: Path) -> CellResult:
    """Read an evaluation as a cell."""
    content = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    if content.get("verb") != "evaluate":
        raise RunError(f"{folder} is a run of excise {content.get('verb')}; compare takes bench and evaluate folders.")
    result = Evaluation.model_validate(content)
    cell = Cell(
        model=result.model,
        protocol=result.protocol,
        hash=result.hash,
        method=_method(folder, content),
        concepts=tuple(result.concepts),
        vocabulary="",
        preserve=(),
        seed=0,
        groups=None,
        precision="",
    )
    return CellResult(
        cell, result, [str(folder.resolve() / "images" / f"{i:04d}.png") for i in range(len(result.shown))]
    )


def _method(folder: Path, content: dict[str, Any]) -> MethodEntry:
    """The methods of the edits; the folder's name if an edit file cannot be read any more."""
    edits = content.get("edits") or []
    if not edits:
        return MethodEntry(name="identity", label="no edit")
    names = [_method_in(Path(edit)) for edit in edits]
    return MethodEntry(name=" + ".join(dict.fromkeys(n for n in names if n)) if all(names) else folder.resolve().name)


def _method_in(edit: Path) -> str:
    """The method in the record of an edit file; empty if the file cannot be read."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(edit, "pt") as file:
            return str(json.loads(file.metadata()[KEY])["record"]["method"])
    except (OSError, SafetensorError, ValueError, KeyError, TypeError):
        return ""


def _inside(folder: Path, name: str) -> str:
    """The full path of an image. A name that leads out of the folder gives a path where no file exists."""
    path = (folder / name).resolve()
    return str(path if path.is_relative_to(folder) else folder / "images" / "outside")


def _identity(d: CellResult) -> tuple[Any, ...]:
    """What makes two cells the same request."""
    return d.cell.method.title, d.cell.model, d.cell.concepts, d.cell.seed


def _labelled(d: CellResult, run: str) -> CellResult:
    """The cell with the run's name in the method's label."""
    method = d.cell.method.model_copy(update={"label": f"{d.cell.method.title} ({run})"})
    return replace(d, cell=d.cell.model_copy(update={"method": method}))
