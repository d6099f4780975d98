"""Measure whether the order of erasing names matters: a hundred at once, one by one, and in ten batches.

    python -m benchmarks.names_order --method uce --set anchor=sheep [--names 100] [--batches 10] [--no-singles]

There are two ways of erasing a few names at a time. `excise.update` computes the edit again with the concepts added,
and should end with the same edit as erasing all at once; edits of a few names each, stacked on one another, need not.
Printed are the relative difference of the change from that of erasing all at once (Frobenius norm, largest over the
weights), the seconds of the last update, and accuracies on fifty erased and fifty retained names as in
`benchmarks.canvas_presets`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from benchmarks.canvas_presets import accuracy
from excise import erase, load
from excise.canvas import world
from excise.cli.options import parse_settings
from excise.edits.edit import Edit, applied
from excise.edits.originals import original_weights
from excise.erasing.update import update
from excise.families.base import Family


def changes(family: Family, edits: Sequence[Edit]) -> dict[str, Tensor]:
    """Return, by path, the sum of the changes of several edits, in float64."""
    total: dict[str, Tensor] = {}
    for edit in edits:
        for path, weight in original_weights(family, edit.paths).items():
            delta = edit.delta(path, weight.double())
            total[path] = total[path] + delta if path in total else delta
    return total


def difference(changes: dict[str, Tensor], reference: dict[str, Tensor]) -> float:
    """Return the largest relative difference (Frobenius) over the weights of the reference."""
    return max(float((changes[path] - delta).norm() / delta.norm()) for path, delta in reference.items())


def stacked(family: Family, groups: Sequence[Sequence[str]], request: dict[str, Any]) -> list[Edit]:
    """Erase each group on top of the edits of those before it."""
    edits: list[Edit] = []
    for group in groups:
        with applied(family, edits):
            edits.append(erase(family, list(group), **request))
    return edits


def updated(
    family: Family, groups: Sequence[Sequence[str]], request: dict[str, Any], states: Path
) -> tuple[Edit, float]:
    """Erase the first group, update the edit with the others, and return it with the seconds of the last update."""
    edit, seconds = erase(family, list(groups[0]), states=states, **request), 0.0
    for group in groups[1:]:
        began = time.perf_counter()
        edit = update(family, edit, add=list(group), states=states)
        seconds = time.perf_counter() - began
    return edit, seconds


def measure(
    method: str, settings: dict[str, Any], count: int, batches: int, pictures: bool, singles: bool
) -> list[dict[str, Any]]:
    """Return a line for each way of erasing the same names; one by one, which takes many edits, only with `singles`."""
    family = load("canvas-sd")
    names, retained = world.list_a()[:count], world.list_b()
    # All edits retain the same names, whatever was erased before.
    request = {"method": method, "preserve": retained, "vocabulary": "none", "kind": "object", **settings}
    size = -(-count // batches)
    ways = {f"in {-(-count // size)} batches": [names[i : i + size] for i in range(0, count, size)]}
    ways |= {"one by one": [[n] for n in names]} if singles else {}
    at_once: dict[str, Tensor] = {}
    rows: list[dict[str, Any]] = []

    def add(way: str, edits: list[Edit], seconds: float | None = None) -> None:
        change = changes(family, edits)
        at_once.update(change if not at_once else {})
        row: dict[str, Any] = {"method": method, "settings": settings, "names": count, "way": way}
        row["difference"] = difference(change, at_once)
        row["seconds"] = seconds if seconds is None else round(seconds, 2)
        if pictures:
            with applied(family, edits):
                row |= accuracy(family, names, retained)
        rows.append(row)
        print(_line(row), flush=True)

    began = time.perf_counter()
    edit = erase(family, names, **request)
    add("at once", [edit], time.perf_counter() - began)
    add("at once, in reverse order", [erase(family, names[::-1], **request)])
    with tempfile.TemporaryDirectory(prefix="excise-") as folder:
        for way, groups in ways.items():
            edit, seconds = updated(family, groups, request, Path(folder) / way.replace(" ", "-"))
            add(f"updated {way}", [edit], seconds)
    for way, groups in ways.items():
        add(f"stacked {way}", stacked(family, groups, request))
    return rows


def _line(row: dict[str, Any]) -> str:
    text = f"{row['method']}, {row['way']}: difference {row['difference']:.1e}"
    text += f", {row['seconds']:.2f} s" if row["seconds"] is not None else ""
    return text + (f", Acc_e {row['acc_e']:.3f}, Acc_r {row['acc_r']:.3f}" if "acc_e" in row else "")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--method", default="uce")
    parser.add_argument("--set", action="append", default=[], help="a setting, key=value; repeatable")
    parser.add_argument("--names", type=int, default=100)
    parser.add_argument("--batches", type=int, default=10)
    parser.add_argument("--no-pictures", action="store_true")
    parser.add_argument("--no-singles", action="store_true", help="do not erase one by one")
    parser.add_argument("--out", type=Path, help="append the lines to this file, as JSON")
    options = parser.parse_args(arguments)
    settings = parse_settings(options.set)
    pictures, singles = not options.no_pictures, not options.no_singles
    rows = measure(options.method, settings, options.names, options.batches, pictures, singles)
    if options.out:
        with options.out.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)


if __name__ == "__main__":
    main()
