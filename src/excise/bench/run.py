"""Running a recipe: every cell once, kept as soon as it is done, so that a killed run goes on where it stopped.

A result folder holds `recipe.json`, `cells/<key>.json` (one whole evaluation each), `edits/<key>.safetensors`
(and `.json`: what erasing took), `training/<key>/` (checkpoints, while a cell trains), `images/` (drawn images by
content) and `results.jsonl`: one line a cell, in the order of the recipe. Lines are made from the cells each time, so
an interrupted run ends with the very lines of an uninterrupted one, seconds aside.
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

from excise.attacks.suite import Attacked, SuiteOptions, attack
from excise.bench.recipe import Cell, Recipe, cells
from excise.concepts.concept import Concept
from excise.edits.edit import Edit, applied
from excise.erasing.advise import advise
from excise.erasing.erase import erase
from excise.errors import ExciseError
from excise.evaluation import controls
from excise.evaluation.evaluate import Evaluated, Evaluation, evaluate, measure
from excise.evaluation.fade import fade
from excise.evaluation.scoring import as_document
from excise.families import load
from excise.families.base import Family
from excise.families.drawing import Workers
from excise.methods.base import Context
from excise.protocols import PROTOCOLS
from excise.protocols.base import asks
from excise.support.files import make_folder, write_json, write_text
from excise.support.precision import bfloat16
from excise.support.runs import locked
from excise.support.selection import evenly

log = logging.getLogger(__name__)
SCHEMA = 1
FADE_PROMPTS = 24  # of each side, spread evenly
LINE = (
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
class Done:
    """A finished cell: its evaluation, and the files of its images in the order of `result.shown`."""

    cell: Cell
    result: Evaluation
    images: list[str]

    def line(self) -> dict[str, Any]:
        """What stands in `results.jsonl`."""
        found = self.result.model_dump(mode="json", include=set(LINE))
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
            **{k: found[k] for k in LINE},
        }


def run(
    recipe: Recipe,
    out: Path,
    *,
    workers: Workers | None = None,
    bar: Bar | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> list[Done]:
    """Run every cell that `out` does not hold yet; one process at a time may use a folder (several as `workers`).

    Raises:
        OutputError: another process is at work in `out`, or it cannot be written.
    """
    workers = workers or Workers()
    planned = list(cells(recipe))
    make_folder(out)
    with locked(out) if workers.rank == 0 else nullcontext():
        if workers.rank == 0:
            write_json(out / "recipe.json", recipe.model_dump(mode="json", by_alias=True))
        done = []
        for number, cell in enumerate(planned, 1):
            kept = read_cell(out, cell)
            if kept is None:
                say(f"{number}/{len(planned)} {cell.title}")
                kept = run_cell(cell, out, workers, bar)
                if workers.rank == 0:
                    keep(out, kept)
            done.append(kept)
            workers.wait()
        if workers.rank == 0:
            write_results(out, done)
    return done


def run_cell(cell: Cell, out: Path, workers: Workers | None = None, bar: Bar | None = None) -> Done:
    """Erase, draw, judge: one cell. Writes its edit and its images, not its result."""
    family = _loaded(_model_of(cell))
    with bar(cell.title) if bar else nullcontext() as progress, _precision(cell.precision):
        edits, erased = _edits(cell, family, out)
        options: dict[str, Any] = {
            "protocol": cell.protocol,
            "groups": cell.groups,
            "cache": out / "images",
            "judge_weights": Path(cell.judge_weights) if cell.judge_weights else None,
            "workers": workers,
            "progress": progress,
        }
        found = evaluate(
            family, cell.concepts, edits=edits, untouched=cell.method.name != "oracle", model_name=cell.model, **options
        )
        distances = _fade(cell, found, edits, options)
        if cell.method.name == "oracle":
            found = _fair(cell, found)
        attacked = _attacked(cell, family, edits, out, progress) if cell.attack else None
        top = attacked.worst if attacked else None
        worst = {"worst_gap": top.gap, "worst_back": top.back} if top else {}
        gap = {name: e.as_dict() for name, e in worst.items() if e}
        update = {
            "metrics": {**found.result.metrics, **distances, **gap},
            "seconds": {"erase": round(erased, 3), **found.result.seconds},
            "attacks": [r.document() for r in attacked.results] if attacked else [],
        }
        result = found.result.model_copy(update=update)
    return Done(cell, result, [str(p.relative_to(out)) for p in found.images.paths])


def keep(out: Path, done: Done) -> None:
    """Write a finished cell."""
    content = {
        "schema": SCHEMA,
        "cell": done.cell.model_dump(mode="json"),
        "result": done.result.model_dump(mode="json"),
        "images": done.images,
    }
    write_json(_path(out, done.cell), content)


def read_cell(out: Path, cell: Cell) -> Done | None:
    """A finished cell, or None when there is none or it is damaged (said, and run again)."""
    path = _path(out, cell)
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return Done(cell, Evaluation.model_validate(content["result"]), list(content["images"]))
    except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
        log.warning("the kept result %s is damaged (%s); it is computed again.", path.name, type(error).__name__)
        return None


def write_results(out: Path, done: Sequence[Done]) -> Path:
    """Write `results.jsonl` from finished cells."""
    path = out / "results.jsonl"
    write_text(path, "".join(json.dumps(d.line(), ensure_ascii=False) + "\n" for d in done))
    return path


def processes() -> Workers:
    """The processes that `accelerate launch` started, or this one alone."""
    from accelerate import PartialState

    state = PartialState(cpu=not torch.cuda.is_available())
    return Workers(state.process_index, state.num_processes, state.wait_for_everyone)


def _edits(cell: Cell, family: Family, out: Path) -> tuple[list[Edit], float]:
    """The cell's edits, and the seconds that the run which finished them spent; they are kept, whatever comes later."""
    began, note = time.perf_counter(), out / "edits" / f"{cell.key}.json"
    if cell.method.name == "oracle":
        return [], 0.0
    if cell.method.name in controls.EDITS:
        made = [controls.EDITS[cell.method.name](family, cell.model, cell.seed) for _ in _requests(cell)]
        return made, time.perf_counter() - began
    kept = _kept_edits(note)
    if kept is not None:
        return kept
    training = out / "training" / cell.key
    edits = _erased(cell, family, training)
    names = [f"{cell.key}{f'-{i}' if _one_by_one(cell) else ''}.safetensors" for i in range(len(edits))]
    for edit, name in zip(edits, names, strict=True):
        edit.save(note.with_name(name))
    spent = time.perf_counter() - began
    write_json(note, {"files": names, "seconds": spent})  # last: what it names is whole
    shutil.rmtree(training, ignore_errors=True)
    return edits, spent


def _erased(cell: Cell, family: Family, training: Path) -> list[Edit]:
    """One edit after another, each made on top of those before it; `training` has the checkpoints of each."""
    found: list[Edit] = []
    for i, names in enumerate(_requests(cell)):
        with applied(family, found):
            request: dict[str, Any] = {
                "vocabulary": cell.vocabulary,
                "preserve": cell.preserve,
                "seed": cell.seed,
                "model_name": cell.model,
                "kind": cell.kind,
                **cell.method.settings,
            }
            if cell.method.advise:
                edit = advise(family, names, cell.method.name, judge=cell.judge, **request).edit
            else:
                edit = erase(family, names, cell.method.name, context=Context(cell.judge, training / str(i)), **request)
        found.append(edit)
    return found


def _requests(cell: Cell) -> list[list[str]]:
    """What is erased at once: in a sequence one concept after another, each on top of those before it, else all."""
    return [[c] for c in cell.concepts] if _one_by_one(cell) else [list(cell.concepts)]


def _one_by_one(cell: Cell) -> bool:
    return PROTOCOLS.load(cell.protocol)().score == "sequence"


def _kept_edits(note: Path) -> tuple[list[Edit], float] | None:
    """Edits of a cell that was interrupted later; None where there are none, or they are damaged (said)."""
    if not note.exists():
        return None
    try:
        made = json.loads(note.read_text(encoding="utf-8"))
        return [Edit.load(note.with_name(Path(name).name)) for name in made["files"]], float(made["seconds"])
    except (OSError, ValueError, KeyError, TypeError, ExciseError) as error:
        log.warning("the kept edit of %s is damaged (%s); it is made again.", note.name, type(error).__name__)
        return None


def _fair(cell: Cell, found: Evaluated) -> Evaluated:
    """An oracle's evaluation without the prompts that ask for something else it never saw."""
    unknown = set(cell.method.without) - set(cell.concepts)
    rows = [i for i, s in enumerate(found.result.shown) if not unknown & set(s.asked.values())]
    result = found.result.model_copy(update={"shown": [found.result.shown[i] for i in rows]})
    result = result.model_copy(update={"metrics": measure(result, found.targets)})
    return replace(found, result=result, images=found.images.at(rows))


def _fade(cell: Cell, found: Evaluated, edits: Sequence[Edit], options: dict[str, Any]) -> dict[str, Any]:
    """FADE to the oracle on prompts with and without the target, where the recipe has an oracle for the concepts."""
    if cell.oracle is None or cell.oracle.model == _model_of(cell):
        return {}
    family, oracle = _loaded(_model_of(cell)), _loaded(cell.oracle.model or "")
    theirs = evaluate(oracle, cell.concepts, model_name=cell.oracle.model or "", **options)
    unknown = set(cell.oracle.without) - set(cell.concepts)
    rows: dict[str, list[int]] = {"fade_forget": [], "fade_retain": []}
    for i, shown in enumerate(found.result.shown):
        if shown.target is None and not unknown & set(shown.asked.values()):
            rows["fade_forget" if asks(shown.asked, found.targets) else "fade_retain"].append(i)
    measured = {}
    for name, chosen in rows.items():
        chosen = evenly(chosen, FADE_PROMPTS)
        if chosen:
            prompts = [found.result.shown[i].prompt for i in chosen]
            images = (found.images.at(chosen), theirs.images.at(chosen))
            measured[name] = fade(family, edits, oracle, prompts, images, seed=cell.seed)
    return as_document(measured)


def _attacked(cell: Cell, family: Family, edits: Sequence[Edit], out: Path, progress: Any) -> Attacked:
    """The cell's model under the recipe's suite; what attacks do to the oracle is kept once for all methods."""
    asked = cell.attack
    assert asked is not None
    return attack(
        family,
        Concept(cell.concepts[0], cell.kind) if cell.kind else cell.concepts[0],
        edits,
        SuiteOptions(
            suite=asked.suite,
            names=asked.only,
            settings=asked.settings,
            images=asked.images,
            tests=asked.tests,
            base=_loaded(cell.model) if cell.method.name == "oracle" else None,
            oracle=_loaded(cell.oracle.model or "") if cell.oracle else None,
            judge=cell.judge,
            seed=cell.seed,
            folder=out,
        ),
        say=(lambda what, done, total: progress(done, total)) if progress else (lambda *_: None),
    )


def _model_of(cell: Cell) -> str:
    return cell.method.model or cell.model if cell.method.name == "oracle" else cell.model


@lru_cache(maxsize=2)
def _loaded(model: str) -> Family:
    return load(model)


def _path(out: Path, cell: Cell) -> Path:
    return out / "cells" / f"{cell.key}.json"


def _precision(name: str) -> Any:
    kind = "cuda" if torch.cuda.is_available() else "cpu"
    return bfloat16(kind, enabled=name == "bfloat16")
