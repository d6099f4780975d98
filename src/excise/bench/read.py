"""Finished runs of one protocol beside each other: bench folders and folders of `excise evaluate`, read as cells."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from excise.bench.recipe import Cell, MethodEntry
from excise.bench.run import Done
from excise.edits.file import KEY
from excise.errors import ExciseError
from excise.evaluation.evaluate import Evaluation
from excise.protocols import check_comparable


class RunError(ExciseError):
    """A folder that holds no finished run to compare."""


def read_runs(folders: Sequence[Path]) -> list[Done]:
    """The cells of all folders, their images with full paths; a method of two runs gets the run's name beside it.

    Raises:
        RunError: a folder is no bench and no evaluation, is unfinished or is damaged.
        IncomparableError: they are of different protocols.
    """
    runs = list(dict.fromkeys(folder.resolve() for folder in folders))
    found = [(folder, d) for folder in runs for d in read_run(folder)]
    check_comparable([d.line() for _, d in found])
    count = Counter(_place(d) for _, d in found)
    doubled = {d.cell.method.title for _, d in found if count[_place(d)] > 1}
    short = len({folder.name for folder in runs}) == len(runs)
    return [
        _labelled(d, folder.name if short else str(folder)) if d.cell.method.title in doubled else d
        for folder, d in found
    ]


def read_run(folder: Path) -> list[Done]:
    """The cells of one folder, at least one.

    Raises:
        RunError: as `read_runs`.
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
        raise RunError(f"the bench {folder} is not finished; run the same excise bench again, it goes on there.")
    raise RunError(
        f"{folder} is no run: it holds neither results.jsonl (excise bench) nor run.json (excise evaluate --out)."
    )


def _bench(folder: Path) -> list[Done]:
    keys = [json.loads(line)["key"] for line in (folder / "results.jsonl").read_text(encoding="utf-8").splitlines()]
    found = []
    for key in keys:
        path = folder / "cells" / f"{key}.json"
        if not path.is_file():
            raise RunError(f"the bench {folder} lacks {path.name}; run the same excise bench again, it fills the gap.")
        content = json.loads(path.read_text(encoding="utf-8"))
        images = [_inside(folder.resolve(), name) for name in content["images"]]
        result = Evaluation.model_validate(content["result"])
        found.append(Done(Cell.model_validate(content["cell"]), result, images))
    if not found:
        raise RunError(f"the bench {folder} has no results; run it again.")
    return found


def _evaluation(folder: Path) -> Done:
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
    return Done(cell, result, [str(folder.resolve() / "images" / f"{i:04d}.png") for i in range(len(result.shown))])


def _method(folder: Path, content: dict[str, Any]) -> MethodEntry:
    """The methods of the edits where their files are still in reach, else the folder's name."""
    edits = content.get("edits") or []
    if not edits:
        return MethodEntry(name="identity", label="no edit")
    names = [_method_in(Path(edit)) for edit in edits]
    return MethodEntry(name=" + ".join(dict.fromkeys(n for n in names if n)) if all(names) else folder.resolve().name)


def _method_in(edit: Path) -> str:
    """The method in an edit file's record, without its tensors; empty where it cannot be read."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(edit, "pt") as file:
            return str(json.loads(file.metadata()[KEY])["record"]["method"])
    except (OSError, SafetensorError, ValueError, KeyError, TypeError):
        return ""


def _inside(folder: Path, name: str) -> str:
    """The full path of an image; a name that leads out of the run's folder finds nothing."""
    path = (folder / name).resolve()
    return str(path if path.is_relative_to(folder) else folder / "images" / "outside")


def _place(d: Done) -> tuple[Any, ...]:
    return d.cell.method.title, d.cell.model, d.cell.concepts, d.cell.seed


def _labelled(d: Done, run: str) -> Done:
    method = d.cell.method.model_copy(update={"label": f"{d.cell.method.title} ({run})"})
    return replace(d, cell=d.cell.model_copy(update={"method": method}))
