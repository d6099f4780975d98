"""Does it matter in which order names are erased? A hundred at once, one by one, and in ten batches.

    python -m benchmarks.names_order --method uce --set anchor=sheep [--names 100] [--batches 10] [--no-singles]

Two ways of erasing a few at a time: `excise.update` makes the edit anew with the concepts added, and should end where
the edit made at once is; edits of a few each, stacked one on top of the other, need not. Told is the relative
difference (Frobenius norm, the largest over the changed weights) of the change from that made at once, the seconds of
the last update, and what pictures show: as `benchmarks.canvas_presets`, fifty of the names erased and fifty of those
kept.
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
from excise.edits.apply import original_weights
from excise.edits.edit import Edit, applied
from excise.erasing.update import update
from excise.families.base import Family


def changes(family: Family, edits: Sequence[Edit]) -> dict[str, Tensor]:
    """What edits together change, by path."""
    found: dict[str, Tensor] = {}
    for edit in edits:
        for path, weight in original_weights(family, edit.paths).items():
            delta = edit.delta(path, weight.double())
            found[path] = found[path] + delta if path in found else delta
    return found


def difference(mine: dict[str, Tensor], wanted: dict[str, Tensor]) -> float:
    """The largest relative difference over the weights."""
    return max(float((mine[path] - delta).norm() / delta.norm()) for path, delta in wanted.items())


def stacked(family: Family, groups: Sequence[Sequence[str]], request: dict[str, Any]) -> list[Edit]:
    """An edit of each group on top of those before it."""
    made: list[Edit] = []
    for group in groups:
        with applied(family, made):
            made.append(erase(family, list(group), **request))
    return made


def updated(
    family: Family, groups: Sequence[Sequence[str]], request: dict[str, Any], states: Path
) -> tuple[Edit, float]:
    """One edit, made with the first group and updated by the others; and the seconds of the last update."""
    edit, seconds = erase(family, list(groups[0]), states=states, **request), 0.0
    for group in groups[1:]:
        began = time.perf_counter()
        edit = update(family, edit, add=list(group), states=states)
        seconds = time.perf_counter() - began
    return edit, seconds


def measure(
    method: str, settings: dict[str, Any], count: int, batches: int, pictures: bool, singles: bool
) -> list[dict[str, Any]]:
    """A line for each way of erasing the same names; one by one, which takes as many edits, only with `singles`."""
    family = load("canvas-sd")
    names, kept = world.list_a()[:count], world.list_b()
    # Every edit has the same names to keep, whichever of the others were erased before or will be.
    request = {"method": method, "preserve": kept, "vocabulary": "none", "kind": "object", **settings}
    size = -(-count // batches)
    ways = {f"in {-(-count // size)} batches": [names[i : i + size] for i in range(0, count, size)]}
    ways |= {"one by one": [[n] for n in names]} if singles else {}
    at_once: dict[str, Tensor] = {}
    rows: list[dict[str, Any]] = []

    def add(way: str, edits: list[Edit], seconds: float | None = None) -> None:
        mine = changes(family, edits)
        at_once.update(mine if not at_once else {})
        row: dict[str, Any] = {"method": method, "settings": settings, "names": count, "way": way}
        row["difference"] = difference(mine, at_once)
        row["seconds"] = seconds if seconds is None else round(seconds, 2)
        if pictures:
            with applied(family, edits):
                row |= accuracy(family, names, kept)
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
    shown = f"{row['method']}, {row['way']}: difference {row['difference']:.1e}"
    shown += f", {row['seconds']:.2f} s" if row["seconds"] is not None else ""
    return shown + (f", Acc_e {row['acc_e']:.3f}, Acc_r {row['acc_r']:.3f}" if "acc_e" in row else "")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--method", default="uce")
    parser.add_argument("--set", action="append", default=[], help="a setting, key=value; repeatable")
    parser.add_argument("--names", type=int, default=100)
    parser.add_argument("--batches", type=int, default=10)
    parser.add_argument("--no-pictures", action="store_true")
    parser.add_argument("--no-singles", action="store_true", help="leave out the ways that go one by one")
    parser.add_argument("--out", type=Path, help="file that the lines are added to, as JSON")
    options = parser.parse_args(arguments)
    settings = parse_settings(options.set)
    shown, singles = not options.no_pictures, not options.no_singles
    rows = measure(options.method, settings, options.names, options.batches, shown, singles)
    if options.out:
        with options.out.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)


if __name__ == "__main__":
    main()
