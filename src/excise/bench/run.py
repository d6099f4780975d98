"""Running a benchmark recipe. Every cell is saved when it is finished, so that an interrupted run resumes.

A result folder holds `recipe.json`, `cells/<key>.json` (one complete evaluation each), `edits/<key>.safetensors`
(and `.json`: how long erasing took), `training/<key>/` (checkpoints, while a cell trains), `images/` (drawn images by
content) and `results.jsonl`: one line for each cell, in the order of the recipe. The lines are written from the cells
each time, so an interrupted run ends with the same lines as an uninterrupted one, except for the seconds.
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from excise.attacks.suite import SuiteOptions, SuiteResult, attack
from excise.bench.recipe import Cell, Recipe, cells
from excise.concepts.concept import Concept
from excise.edits.edit import Edit, applied
from excise.erasing.advise import advise
from excise.erasing.erase import erase
from excise.errors import ExciseError
from excise.evaluation import controls
from excise.evaluation.evaluate import evaluate
from excise.evaluation.fade import fade
from excise.evaluation.result import Evaluated, Evaluation, measure
from excise.evaluation.scoring import as_document
from excise.families import load
from excise.families.base import Family
from excise.families.drawing import Workers
from excise.methods.base import Context
from excise.protocols import PROTOCOLS
from excise.protocols.base import asks
from excise.support.files import write_json, write_text
from excise.support.precision import bfloat16
from excise.support.runs import run_folder
from excise.support.selection import evenly

log = logging.getLogger(__name__)
SCHEMA = 1
RECIPE = "recipe.json"
FADE_PROMPTS = 24  # at most, for each of the two sides
LINE_FIELDS = (
    "metrics",
    "untouched",
    "became",
    "entropy",
    "neighbours",
    "sequence",
    "attacks",
    "seconds",
    "peak_memory_mb",
    "edit_bytes",
)
Bar = Callable[[str], Any]  # a context manager that yields a Progress


@dataclass(frozen=True)
class CellResult:
    """A finished cell: its evaluation, and its image files in the order of `result.shown`."""

    cell: Cell
    result: Evaluation
    images: list[str]

    def line(self) -> dict[str, Any]:
        """The cell's line of `results.jsonl`."""
        fields = self.result.model_dump(mode="json", include=set(LINE_FIELDS))
        return {
            "schema": SCHEMA,
            "key": self.cell.key,
            "model": self.cell.model,
            "method": self.cell.method.title,
            "name": self.cell.method.name,
            "settings": self.cell.method.settings,
            "concepts": list(self.cell.concepts),
            "seed": self.cell.seed,
            "protocol": self.result.protocol,
            "hash": self.result.hash,
            "protocol_summary": self.result.protocol_summary,
            **{k: fields[k] for k in LINE_FIELDS},
        }


def run(
    recipe: Recipe,
    out: Path,
    *,
    workers: Workers | None = None,
    bar: Bar | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> list[CellResult]:
    """Run every cell that `out` does not hold yet, and return all cells.

    Args:
        workers: this process among several that run the recipe together; otherwise one process at a time may use `out`.
        bar: returns a progress bar for a title. say: prints a line.

    Raises:
        OutputError: another process uses `out`, or it cannot be written.
    """
    workers = workers or Workers()
    planned = list(cells(recipe))
    with run_folder(out, [RECIPE]) if workers.rank == 0 else nullcontext():
        if workers.rank == 0:
            write_json(out / RECIPE, recipe.model_dump(mode="json", by_alias=True))
        results = []
        for number, cell in enumerate(planned, 1):
            result = read_cell(out, cell)
            if result is None:
                say(f"{number}/{len(planned)} {cell.title}")
                result = run_cell(cell, out, workers, bar)
                if workers.rank == 0:
                    keep(out, result)
            results.append(result)
            workers.wait()
        if workers.rank == 0:
            write_results(out, results)
    return results


def run_cell(cell: Cell, out: Path, workers: Workers | None = None, bar: Bar | None = None) -> CellResult:
    """Erase, draw, judge and attack: run one cell. Writes its edit and its images, but not its result."""
    family = load_model(_model_of(cell))
    with bar(cell.title) if bar else nullcontext() as progress, _precision(cell.precision):
        edits, seconds = _edits(cell, family, out)
        options: dict[str, Any] = {
            "protocol": cell.protocol,
            "groups": cell.groups,
            "bfloat16": False,  # the recipe's precision is in force already
            "cache": out / "images",
            "judge_weights": Path(cell.judge_weights) if cell.judge_weights else None,
            "workers": workers,
            "progress": progress,
        }
        evaluated = evaluate(
            family, cell.concepts, edits=edits, untouched=cell.method.name != "oracle", model_name=cell.model, **options
        )
        distances = _fade(cell, evaluated, edits, options)
        if cell.method.name == "oracle":
            evaluated = _without_other_unknowns(cell, evaluated)
        attacked = _attack(cell, family, edits, out, progress) if cell.attack else None
        top = attacked.worst if attacked else None
        worst = {"worst_gap": top.gap, "worst_back": top.back} if top else {}
        update = {
            "metrics": {
                **evaluated.result.metrics,
                **distances,
                **{name: estimate.as_dict() for name, estimate in worst.items() if estimate},
            },
            "seconds": {"erase": round(seconds, 3), **evaluated.result.seconds},
            "attacks": [r.document() for r in attacked.results] if attacked else [],
        }
        result = evaluated.result.model_copy(update=update)
    return CellResult(cell, result, [str(p.relative_to(out)) for p in evaluated.images.paths])


def keep(out: Path, result: CellResult) -> None:
    """Write the result of a finished cell."""
    content = {
        "schema": SCHEMA,
        "cell": result.cell.model_dump(mode="json"),
        "result": result.result.model_dump(mode="json"),
        "images": result.images,
    }
    write_json(_path(out, result.cell), content)


def read_cell(out: Path, cell: Cell) -> CellResult | None:
    """Read a finished cell; None if there is none, or (with a warning) if its file is damaged."""
    path = _path(out, cell)
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return CellResult(cell, Evaluation.model_validate(content["result"]), list(content["images"]))
    except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
        log.warning("the saved result %s is damaged (%s); it is computed again.", path.name, type(error).__name__)
        return None


def write_results(out: Path, results: Sequence[CellResult]) -> Path:
    """Write `results.jsonl` from finished cells, and return its path."""
    path = out / "results.jsonl"
    write_text(path, "".join(json.dumps(d.line(), ensure_ascii=False) + "\n" for d in results))
    return path


def processes() -> Workers:
    """This process among those that `accelerate launch` started, or alone."""
    from accelerate import PartialState

    state = PartialState(cpu=not torch.cuda.is_available())
    return Workers(state.process_index, state.num_processes, state.wait_for_everyone)


def _edits(cell: Cell, family: Family, out: Path) -> tuple[list[Edit], float]:
    """Load or make the cell's edits, and save them. Also return the seconds that making them took."""
    began, note = time.perf_counter(), out / "edits" / f"{cell.key}.json"
    if cell.method.name == "oracle":
        return [], 0.0
    if cell.method.name in controls.EDITS:
        edits = [controls.EDITS[cell.method.name](family, cell.model, cell.seed) for _ in _requests(cell)]
        return edits, time.perf_counter() - began
    saved = _saved_edits(note)
    if saved is not None:
        return saved
    training = out / "training" / cell.key
    edits = _erase(cell, family, training)
    names = [f"{cell.key}{f'-{i}' if _one_by_one(cell) else ''}.safetensors" for i in range(len(edits))]
    for edit, name in zip(edits, names, strict=True):
        edit.save(note.with_name(name))
    spent = time.perf_counter() - began
    write_json(note, {"files": names, "seconds": spent})  # last, so that the files it names are complete
    shutil.rmtree(training, ignore_errors=True)
    return edits, spent


def _erase(cell: Cell, family: Family, training: Path) -> list[Edit]:
    """Make the cell's edits one after another, each on top of those before it; checkpoints go to `training`."""
    edits: list[Edit] = []
    for i, names in enumerate(_requests(cell)):
        with applied(family, edits):
            request: dict[str, Any] = {
                "vocabulary": cell.vocabulary,
                "preserve": cell.preserve,
                "seed": cell.seed,
                "model_name": cell.model,
                "kind": cell.kind,
                **cell.method.settings,
            }
            if cell.method.advise:
                edit = advise(family, names, cell.method.name, context=Context(cell.judge), **request).edit
            else:
                edit = erase(family, names, cell.method.name, context=Context(cell.judge, training / str(i)), **request)
        edits.append(edit)
    return edits


def _requests(cell: Cell) -> list[list[str]]:
    """The concepts of each edit: in a sequence one concept for each edit, else all in one."""
    return [[c] for c in cell.concepts] if _one_by_one(cell) else [list(cell.concepts)]


def _one_by_one(cell: Cell) -> bool:
    return PROTOCOLS.load(cell.protocol)().score == "sequence"


def _saved_edits(note: Path) -> tuple[list[Edit], float] | None:
    """Load the edits of a cell that was interrupted after making them.

    Returns:
        The edits and the seconds of making them; None if there are none, or (with a warning) if one is damaged.
    """
    if not note.exists():
        return None
    try:
        content = json.loads(note.read_text(encoding="utf-8"))
        return [Edit.load(note.with_name(Path(name).name)) for name in content["files"]], float(content["seconds"])
    except (OSError, ValueError, KeyError, TypeError, ExciseError) as error:
        log.warning("the saved edit of %s is damaged (%s); it is made again.", note.name, type(error).__name__)
        return None


def _without_other_unknowns(cell: Cell, evaluated: Evaluated) -> Evaluated:
    """An oracle's evaluation without the prompts that ask for other concepts it was not trained on."""
    unknown = set(cell.method.without) - set(cell.concepts)
    rows = [i for i, s in enumerate(evaluated.result.shown) if not unknown & set(s.asked.values())]
    result = evaluated.result.model_copy(update={"shown": [evaluated.result.shown[i] for i in rows]})
    result = result.model_copy(update={"metrics": measure(result, evaluated.targets)})
    return replace(evaluated, result=result, images=evaluated.images.at(rows))


def _fade(cell: Cell, evaluated: Evaluated, edits: Sequence[Edit], options: dict[str, Any]) -> dict[str, Any]:
    """FADE to the oracle on prompts with and without the target; empty if the recipe has no oracle for the concepts."""
    if cell.oracle is None or cell.oracle.model == _model_of(cell):
        return {}
    family, oracle = load_model(_model_of(cell)), load_model(cell.oracle.model or "")
    reference = evaluate(oracle, cell.concepts, model_name=cell.oracle.model or "", **options)
    unknown = set(cell.oracle.without) - set(cell.concepts)
    rows: dict[str, list[int]] = {"fade_forget": [], "fade_retain": []}
    for i, shown in enumerate(evaluated.result.shown):
        if shown.target is None and not unknown & set(shown.asked.values()):
            rows["fade_forget" if asks(shown.asked, evaluated.targets) else "fade_retain"].append(i)
    distances = {}
    for name, chosen in rows.items():
        chosen = evenly(chosen, FADE_PROMPTS)
        if chosen:
            prompts = [evaluated.result.shown[i].prompt for i in chosen]
            images = (evaluated.images.at(chosen), reference.images.at(chosen))
            distances[name] = fade(family, edits, oracle, prompts, images, seed=cell.seed)
    return as_document(distances)


def _attack(cell: Cell, family: Family, edits: Sequence[Edit], out: Path, progress: Any) -> SuiteResult:
    """Run the recipe's suite on the cell's model. Attacks on the oracle are run once for all methods."""
    entry = cell.attack
    assert entry is not None
    return attack(
        family,
        Concept(cell.concepts[0], cell.kind) if cell.kind else cell.concepts[0],
        edits,
        SuiteOptions(
            suite=entry.suite,
            names=entry.only,
            settings=entry.settings,
            images=entry.images,
            tests=entry.tests,
            base=load_model(cell.model) if cell.method.name == "oracle" else None,
            oracle=load_model(cell.oracle.model or "") if cell.oracle else None,
            judge=cell.judge,
            seed=cell.seed,
            folder=out,
            cache=out / "images",
        ),
        say=(lambda what, done, total: progress(done, total)) if progress else (lambda *_: None),
    )


def _model_of(cell: Cell) -> str:
    return cell.method.model or cell.model if cell.method.name == "oracle" else cell.model


@lru_cache(maxsize=2)
def load_model(model: str) -> Family:
    """Load a model; the last two stay in memory."""
    return load(model)


def _path(out: Path, cell: Cell) -> Path:
    return out / "cells" / f"{cell.key}.json"


def _precision(name: str) -> Any:
    kind = "cuda" if torch.cuda.is_available() else "cpu"
    return bfloat16(kind, enabled=name == "bfloat16")
