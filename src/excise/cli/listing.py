"""Find runs and edits below a folder, by what they leave there. No torch."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from excise.edits.record import KEY
from excise.edits.verified import checks_of
from excise.errors import ExciseError
from excise.evaluation.catalog import METRICS, Prominence, quantity
from excise.evaluation.verdict import ConceptVerdict
from excise.support.counts import counted
from excise.support.headers import read_header
from excise.support.runs import EDIT_NAME

FINISHED, UNFINISHED, DAMAGED = "finished", "unfinished", "damaged"
PRIVATE = ("images", "cells", "edits", "training", "states", "attacks")  # folders inside a run that are no runs


@dataclass(frozen=True)
class Listed:
    """One run or edit.

    Attributes:
        path: relative to the folder that was searched.
        run: the command that wrote it, or "edit" for an edit file by itself.
        concepts, method, model: as it tells them; empty where it does not.
        bytes: size of its edit file; None without one.
        status: finished, unfinished, damaged, or what a verification says: of a policy, of the edit, or of the run.
        created: date and time of the run, where it tells them.
    """

    path: str
    run: str
    concepts: tuple[str, ...] = ()
    method: str = ""
    model: str = ""
    bytes: int | None = None
    status: str = FINISHED
    created: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return the fields by name, for JSON."""
        return {**asdict(self), "concepts": list(self.concepts)}


def found_below(folder: Path) -> list[Listed]:
    """Return every run and edit below a folder, sorted by path; links to folders are not followed."""
    rows: list[Listed] = []
    for place, folders, files in os.walk(folder):
        here = Path(place)
        run = _run(here, set(files), set(folders))
        folders[:] = sorted(f for f in folders if not f.startswith(".") and not (run and f in PRIVATE))
        relative = os.path.relpath(here, folder)
        if run is not None:
            rows.append(Listed(**{**run, "path": relative}))
        own = {EDIT_NAME} if run is not None else set()
        for name in sorted(f for f in files if f.endswith(".safetensors") and f not in own):
            edit = _edit(here / name)
            if edit is not None:
                rows.append(Listed(**{**edit, "path": os.path.normpath(os.path.join(relative, name)), "run": "edit"}))
    return sorted(rows, key=lambda row: row.path)


def record_in(path: Path) -> dict[str, Any] | None:
    """Return the record of an edit file; None if the file is no edit, or cannot be read."""
    try:
        record = json.loads(read_header(path).metadata[KEY])["record"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return record if isinstance(record, dict) else None


def _run(folder: Path, files: set[str], folders: set[str]) -> dict[str, Any] | None:
    """The fields of the run in a folder; None if the folder holds none."""
    readers: Sequence[tuple[str, Callable[[Path], dict[str, Any]]]] = (
        ("ledger.jsonl", _policy),
        ("recipe.json", _bench),
        ("run.json", _single),
    )
    for name, read in readers:
        if name in files:
            try:
                return {**read(folder), **_size(folder / EDIT_NAME)}
            except (OSError, ValueError, KeyError, TypeError, AttributeError, ExciseError):
                return {"run": name.partition(".")[0], "status": DAMAGED, **_size(folder / EDIT_NAME)}
    begun = ".lock" in files or (folders & {"training", "attacks"} and not files)
    return {"run": "", "status": UNFINISHED} if begun and EDIT_NAME not in files else None


def _single(folder: Path) -> dict[str, Any]:
    """A run of one command, from its run.json."""
    content = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    record = content.get("record") or {}
    concepts = [c["name"] for c in record.get("concepts", ())] or content.get("concepts")
    concepts = concepts or [content["concept"]] if "concept" in content else concepts or list(content.get("erased", ()))
    model = content.get("model") or record.get("base", {}).get("model", "")
    method = content.get("method") or record.get("method") or " + ".join(_methods(folder, content.get("edits") or ()))
    return {
        "run": str(content["verb"]),
        "concepts": tuple(map(str, concepts)),
        "method": str(method),
        "model": str(model),
        "created": str(content.get("created", "")),
        "status": _measured(content) or _checked(folder / EDIT_NAME),
    }


def _measured(run: Mapping[str, Any]) -> str:
    """The verdict of an evaluation, or its main figures; empty for a run that measured nothing."""
    verdicts = run.get("verdicts") or []
    if len(verdicts) == 1:
        return str(ConceptVerdict(**verdicts[0]).sentence())
    if verdicts:
        return f"{sum(v['status'] == 'verified' for v in verdicts)} of {len(verdicts)} concepts verified"
    metrics = run.get("metrics") or {}
    main = [m for key, m in METRICS.items() if key in metrics and m.prominence is Prominence.MAIN]
    return ", ".join(f"{m.label} {quantity(metrics[m.key]['value'], m.unit)}" for m in main)


def _checked(edit: Path) -> str:
    """Whether the edit of a finished run was verified; "finished" for a run without an edit."""
    if not edit.is_file():
        return FINISHED
    checks = checks_of(edit)
    if not any(check.verifies for check in checks):
        return "not yet verified"
    if any(not gate.passed for check in checks for gate in check.gates):
        return "gates failed"
    return "verified" if all(s.startswith("verified") for c in checks for s in c.verdicts.values()) else "checked"


def _methods(folder: Path, edits: Sequence[str]) -> Iterator[str]:
    """The methods of the edits that a run applied, as far as their files can be found."""
    for edit in dict.fromkeys(edits):
        record = record_in(Path(edit)) or record_in(folder / edit)
        if record is not None:
            yield str(record.get("method", ""))


def _bench(folder: Path) -> dict[str, Any]:
    """A benchmark, from its recipe and the cells that are there."""
    recipe = json.loads((folder / "recipe.json").read_text(encoding="utf-8"))
    entries = [e if isinstance(e, list) else [e] for e in recipe.get("concepts", ())]
    names = [name if isinstance(name, str) else str(name.get("file", "")) for entry in entries for name in entry]
    done = len(list((folder / "cells").glob("*.json")))
    finished = (folder / "results.jsonl").is_file()
    return {
        "run": "bench",
        "concepts": tuple(dict.fromkeys(names)),
        "method": ", ".join(m.get("label") or m["name"] for m in recipe["methods"]),
        "model": ", ".join(recipe.get("models", ())),
        "status": FINISHED if finished else f"{UNFINISHED}, {counted(done, 'cell')} done",
    }


def _policy(folder: Path) -> dict[str, Any]:
    """The results of a policy, from the last entry of its ledger."""
    from excise.policy import ledger

    entry: Mapping[str, Any] = ledger.read(folder)[-1]
    verified = entry["verified"]
    return {
        "run": "apply",
        "concepts": tuple(concept["name"] for concept in entry["in_force"]),
        "method": ", ".join(dict.fromkeys(group["method"] for group in entry["groups"])),
        "model": str(entry["model"]["name"]),
        "status": "not verified" if verified is None else "gates passed" if verified["passed"] else "gates failed",
        "created": str(entry["time"]),
    }


def _edit(path: Path) -> dict[str, Any] | None:
    """An edit file by itself; None for any other safetensors file."""
    record = record_in(path)
    if record is None:
        return None
    concepts = tuple(str(c.get("name", "")) for c in record.get("concepts", ()))
    base = record.get("base") or {}
    return {
        "concepts": concepts,
        "method": str(record.get("method", "")),
        "model": str(base.get("model", "")),
        **_size(path),
    }


def _size(path: Path) -> dict[str, int]:
    return {"bytes": path.stat().st_size} if path.is_file() else {}
