"""excise inspect: show the content of an edit file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from excise.cli import options as o


def inspect(
    file: Annotated[Path, typer.Argument(help="The edit file.")],
    as_json: o.JsonOption = False,
) -> None:
    """Show what an edit file removes, from which model, with which method and settings. Needs no model."""
    from excise.cli import show
    from excise.edits.deltas import LowRank, total_bytes
    from excise.edits.edit import Edit

    edit = Edit.load(file)
    ranks = [d.a.shape[0] for d in edit.modules.values() if isinstance(d, LowRank)] + [
        m.v.shape[0] for m in edit.text_maps
    ]
    rank, size = max(ranks, default=0), total_bytes(edit.tensors().values())
    delta: dict[str, Any] = {
        "text_maps": len(edit.text_maps),
        "modules": edit.paths,
        "rank": rank,
        "bytes": size,
    }
    if edit.hooks:
        delta["hooks"] = [{"kind": h.kind, "strength": h.strength, "settings": h.settings()} for h in edit.hooks]
    if as_json:
        show.print_json({"record": edit.record.model_dump(mode="json"), "delta": delta})
        return
    r = edit.record
    ranks_text = f", rank up to {rank}" if rank else ""
    rows = [
        ("removes", "; ".join(f"{c.name} ({c.kind}, read as '{c.anchor}')" for c in r.concepts)),
        ("from", f"{r.base.model} ({r.base.family}, weights {r.base.weights[:12]})"),
        ("with", f"{r.method}, seed {r.seed}, excise {r.excise}"),
        ("settings", ", ".join(f"{k}={v}" for k, v in r.settings.items())),
        ("preserves", ", ".join(r.preserve) or "-"),
        ("vocabulary", r.vocabulary or "-"),
        ("changes", f"{len(edit.paths)} weights{ranks_text}, {size / 1024:.0f} kB"),
        ("measured", ", ".join(_brief(r.measured)) or "nothing"),
    ]
    if edit.hooks:
        rows.insert(-1, ("while drawing", ", ".join(h.kind for h in edit.hooks)))
    if r.stack:
        rows.append(("stack of", ", ".join(f"{p.method} ({', '.join(c.name for c in p.concepts)})" for p in r.stack)))
    show.table(rows, ("", str(file)))


def _brief(measured: Mapping[str, Any]) -> list[str]:
    """The measurements that fit into a line. Tables, such as the loss of every step, are left to `--json`."""
    return [f"{k} {v}" for k, v in measured.items() if not (isinstance(v, list) and v and isinstance(v[0], dict))]
