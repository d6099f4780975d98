"""excise inspect: show the content of an edit, or of an export that carries its record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from excise.cli import options as o
from excise.cli.keeping import read_run
from excise.support.counts import counted, size_text

if TYPE_CHECKING:
    from excise.edits.record import EditRecord
    from excise.edits.verified import Check


@dataclass(frozen=True)
class _Content:
    """What a file says about itself: the record, the changes as in `--json`, the checks, and the line of changes."""

    record: EditRecord
    delta: dict[str, Any]
    checks: tuple[Check, ...]
    changes: str
    hooks: tuple[str, ...] = ()
    exported: tuple[tuple[str, str], ...] = ()


def inspect(
    file: Annotated[
        Path,
        typer.Argument(help="An edit file, a run folder, or what excise export wrote (LoRA, single file, folder)."),
    ],
    as_json: o.JsonOption = False,
) -> None:
    """Show what an edit or an export removes, from which model, by which method, and what was verified.

    Example: excise inspect shipped/excise_cat_kohya_lora.safetensors
    """
    from excise.cli import show
    from excise.edits.exports import located
    from excise.support.runs import EDIT_NAME

    run = None if (file / EDIT_NAME).exists() else read_run(file)
    if run:
        _show_run(file, run, as_json)
        return
    paths = located(file)
    if as_json:
        documents = [_document(_content(path)) for path in paths]
        several = [{"file": str(path), **document} for path, document in zip(paths, documents, strict=True)]
        show.print_json(documents[0] if len(paths) == 1 else {"files": several})
        return
    for path in paths:
        show.table(_rows(_content(path)), ("", str(path)))


def _document(content: _Content) -> dict[str, Any]:
    from excise.edits.verified import as_json as checks_as_json

    document = {"record": content.record.model_dump(mode="json"), "delta": content.delta}
    return {**document, **dict(content.exported), "verified": checks_as_json(content.checks)}


def _rows(content: _Content) -> list[tuple[str, str]]:
    """The table of an edit or an export."""
    from excise.concepts.concept import read_as
    from excise.edits.verified import NOT_VERIFIABLE, sentences
    from excise.evaluation.verdict import NEXT_STEP
    from excise.support.choices import written

    r, verified = content.record, sentences(content.checks)
    rows = [
        ("removes", "; ".join(f"{c.name} ({c.kind}, read as {read_as(c.anchor)})" for c in r.concepts)),
        ("from", f"{r.base.model} ({r.base.family}, weights {r.base.weights[:12]})"),
        ("with", f"{r.method}, seed {r.seed}, excise {r.excise}"),
        *([("settings", ", ".join(f"{k}={written(v)}" for k, v in r.settings.items()))] if r.settings else []),
        ("preserves", ", ".join(r.preserve) or "-"),
        ("vocabulary", r.vocabulary or "-"),
        ("changes", content.changes),
        *([("measured", ", ".join(brief))] if (brief := _brief(r.measured)) else []),
        ("verified", "\n".join(verified) or "not yet"),
    ]
    if content.hooks:
        rows.insert(-2, ("while drawing", ", ".join(content.hooks)))
    if any(f": {NOT_VERIFIABLE}" in line for line in verified):
        rows.append(("to verify it", NEXT_STEP))
    if r.stack:
        rows.append(("stack of", ", ".join(f"{p.method} ({', '.join(c.name for c in p.concepts)})" for p in r.stack)))
    return rows + [("exported from" if name == "edit" else name, value) for name, value in content.exported]


def _show_run(folder: Path, run: Mapping[str, Any], as_json: bool) -> None:
    """Print what a run without an edit was about, its verdicts, and which of its gates failed."""
    from excise.cli import show
    from excise.evaluation.verdict import ConceptVerdict

    concepts = run.get("concepts") or [run["concept"]] * ("concept" in run)
    verdicts = {v["concept"]: ConceptVerdict(**v).sentence() for v in run.get("verdicts", [])}
    gates = run.get("gates", [])
    if as_json:
        told = {name: run.get(name) for name in ("verb", "created", "model", "edits", "metrics")}
        show.print_json({"run": str(folder), **told, "concepts": concepts, "verdicts": verdicts, "gates": gates})
        return
    rows = [
        ("run", f"excise {run.get('verb', '?')}, {str(run.get('created', ''))[:10]}"),
        ("model", str(run.get("model", "-"))),
        ("edits", ", ".join(map(str, run.get("edits") or [])) or "-"),
        ("concepts", ", ".join(map(str, concepts)) or "-"),
        ("verified", "\n".join(f"{name}: {sentence}" for name, sentence in verdicts.items()) or "-"),
        ("gates", "\n".join(f"{g['gate']} {'passed' if g['passed'] else 'FAILED'}" for g in gates) or "none required"),
    ]
    show.table(rows, ("", str(folder)))


def _content(path: Path) -> _Content:
    """Read an export, or else an edit.

    Raises:
        EditFileError: it is neither.
    """
    from excise.edits.exports import read_export
    from excise.edits.verified import checks_of

    shipped = read_export(path)
    if shipped is None:
        return _edit(path, checks_of(path))
    size = size_text(shipped.bytes)
    changes = f"{_weights(shipped.modules)}, rank {shipped.rank}, {size}" if shipped.rank else f"whole model, {size}"
    delta = {"modules": list(shipped.modules), "rank": shipped.rank, "bytes": shipped.bytes}
    digest = shipped.evidence.edit
    exported = (("format", shipped.format), *([("edit", f"{digest}")] if digest else []))
    return _Content(shipped.record, delta, shipped.evidence.checks, changes, (), exported)


def _edit(path: Path, checks: tuple[Check, ...]) -> _Content:
    """Read an edit: its header where that tells all, else the edit itself, which needs torch."""
    from excise.edits.outline import outline

    seen = outline(path)
    if seen is None:
        return _whole(path, checks)
    return _told(seen.record, seen.paths, len(seen.maps), seen.rank, seen.bytes, checks)


def _whole(path: Path, checks: tuple[Check, ...]) -> _Content:
    from excise.edits.deltas import LowRank, total_bytes
    from excise.edits.edit import Edit

    edit = Edit.load(path)
    ranks = [d.a.shape[0] for d in edit.modules.values() if isinstance(d, LowRank)]
    rank, size = max([*ranks, *(m.v.shape[0] for m in edit.text_maps)], default=0), total_bytes(edit.tensors().values())
    content = _told(edit.record, edit.paths, len(edit.text_maps), rank, size, checks)
    if edit.hooks:
        content.delta["hooks"] = [
            {"kind": h.kind, "strength": h.strength, "settings": h.settings()} for h in edit.hooks
        ]
    return replace(content, hooks=tuple(h.kind for h in edit.hooks))


def _told(record: EditRecord, paths: list[str], maps: int, rank: int, size: int, checks: tuple[Check, ...]) -> _Content:
    delta: dict[str, Any] = {"text_maps": maps, "modules": paths, "rank": rank, "bytes": size}
    ranks_text = f", rank {rank} at most" if rank else ""
    return _Content(record, delta, checks, f"{_weights(paths)}{ranks_text}, {size_text(size)}")


def _weights(paths: Sequence[str]) -> str:
    return counted(len(paths), "weight")


def _brief(measured: Mapping[str, Any]) -> list[str]:
    """The measurements that fit into a line. Tables, such as the loss of every step, are left to `--json`."""
    told = {k: ", ".join(v) if k == "targets" else v for k, v in measured.items()}  # of each trained alone, its name
    return [f"{k} {v}" for k, v in told.items() if not (isinstance(v, list) and v and isinstance(v[0], dict))]
