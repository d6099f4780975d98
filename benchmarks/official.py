"""Compare each closed form's defaults with its published program's recipe (`preset=official`) on the built-in model.

    python -m benchmarks.official --out runs/official        # erases, draws, judges; resumes where it stopped

    python -m benchmarks.official --lines benchmarks/results/canvas-official.jsonl        # only the table

Six objects and four styles of canvas-sd are erased, each alone. 56 prompts of canvas-mini's grid are drawn: all that
ask for the target (10 for an object, 24 for a style) and others spread over the rest, with the protocol's seeds, under
bfloat16 autocast. The default is that of `excise erase --method NAME`. An official recipe gets the inputs of its
program: the other names of the target's level if it takes names to retain (UCE, SPEED), else none. The anchor of a
style is "plain", Canvas' word for no style, where the programs have "art".

Printed as Markdown: rates in per cent, means over the targets with 95 % intervals. The exit status is 1 if a default
has a lower H than an official recipe of the same method by more than the interval of the difference.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from excise import erase, load
from excise.bench.tables import Figure, markdown, mean
from excise.canvas import world
from excise.edits.edit import applied
from excise.evaluation.catalog import interval, number
from excise.evaluation.scoring import as_document, score
from excise.evaluation.verdicts import judged
from excise.families.base import Family
from excise.families.drawing import draw
from excise.judges.canvas import CanvasJudge
from excise.protocols.base import Item, Protocol, Target
from excise.protocols.canvas import canvas_mini
from excise.support.files import write_text
from excise.support.precision import bfloat16
from excise.support.selection import evenly

OBJECTS = ("cat", "guitar", "tree", "car", "rocket", "pizza")
STYLES = ("neon", "watercolor", "sepia", "dots")
DEFAULTS = ("uce", "speed", "rece", "mace", "scapre", "cure", "emcid")
# By row: method, preset, whether the program takes names to retain.
OFFICIAL = {
    "uce, official": ("uce", "official", True),
    "speed, official": ("speed", "official", True),
    "rece, official": ("rece", "official", False),
    "mace, official": ("mace", "official", False),
    "scapre, official for few": ("scapre", "official-few", False),
    "scapre, official for many": ("scapre", "official", False),
}
ROWS = ("untouched", *sorted((*DEFAULTS, *OFFICIAL), key=lambda row: DEFAULTS.index(row.partition(",")[0])))
RATES = ("ua", "ira", "cra", "h")
PICTURES = 56
Line = dict[str, Any]


def items_for(plan: Protocol, target: Target) -> list[Item]:
    """Return the items to draw for a target: all that ask for it, and others."""
    attribute, label = target
    grid = plan.select([target], ["grid"])
    asking = [item for item in grid if item.asked[attribute] == label]
    others = [item for item in grid if item.asked[attribute] != label]
    return [*asking, *evenly(others, PICTURES - len(asking))]


def request(row: str, target: str) -> dict[str, Any]:
    """Return the arguments of `excise.erase` for a row, without the target."""
    if row in DEFAULTS:
        return {"method": row}
    method, preset, takes_names = OFFICIAL[row]
    level = world.STYLES if target in world.STYLES else world.OBJECTS
    return {
        "method": method,
        "preset": preset,
        "vocabulary": None,
        "preserve": [name for name in level if name != target] if takes_names else [],
        **({"anchor": "plain"} if target in world.STYLES else {}),
    }


def measured(family: Family, row: str, target: str, out: Path) -> Line:
    """Measure one row for one target, or read it from `out` if it was measured before."""
    path = out / "cells" / f"{row.replace(', ', '-').replace(' ', '-')}-{target}.json"
    if path.exists():
        return json.loads(path.read_text(encoding="utf-8"))
    plan = canvas_mini()
    label = plan.target_of(target)
    items = items_for(plan, label)
    edits = [] if row == "untouched" else [erase(family, [target], **request(row, target))]
    prompts_and_seeds = [(item.prompt, plan.seed(item)) for item in items]
    with applied(family, edits), bfloat16(family.device.type, True):
        images = draw(family, prompts_and_seeds, steps=plan.steps, guidance=plan.guidance)
    shown = judged(items, prompts_and_seeds, images, [CanvasJudge("a")])
    line = {
        "row": row,
        "target": target,
        "settings": edits[0].record.settings if edits else {},
        "metrics": as_document(score(plan.score, shown, [label])),
    }
    write_text(path, json.dumps(line))
    return line


def difference(one: Figure, two: Figure) -> Figure:
    """Return one - two with its 95 % interval, by square-and-add (Zou and Donner, 2008)."""
    value = one["value"] - two["value"]
    below = math.hypot(one["value"] - one["low"], two["high"] - two["value"])
    above = math.hypot(one["high"] - one["value"], two["value"] - two["low"])
    return {"value": value, "low": value - below, "high": value + above}


def table(lines: Sequence[Line], targets: Sequence[str]) -> tuple[str, list[str]]:
    """Return the table over some targets, and a sentence for each default that falls short of an official recipe."""

    def figure(row: str, rate: str) -> Figure:
        return mean([x["metrics"][rate] for x in lines if x["row"] == row and x["target"] in targets])

    body, short = [], []
    for row in ROWS:
        figures = {rate: figure(row, rate) for rate in RATES}
        cells = [_cell(figures[rate]) for rate in RATES]
        if row in OFFICIAL:
            default = OFFICIAL[row][0]
            ahead = difference(figure(default, "h"), figures["h"])
            cells.append(_cell(ahead))
            if ahead["high"] < 0:
                short.append(f"{default} by default has a lower H than {row}: {_cell(ahead)}.")
        body.append([row, *cells])
        if row not in OFFICIAL:
            body[-1].append("")
    head = ["method", *(rate.upper() for rate in RATES), "H of the default less this"]
    return markdown(head, body, figures=5), short


def _cell(figure: Figure) -> str:
    return f"{number(figure['value'], 'rate')} ({interval(figure, 'rate')})"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/official"), help="folder of the measurements")
    parser.add_argument("--lines", type=Path, help="read the lines of an earlier run instead of measuring")
    parser.add_argument("--keep", type=Path, help="write the lines to this file as well")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    if options.lines:
        lines = [json.loads(line) for line in options.lines.read_text(encoding="utf-8").splitlines()]
    else:
        family, lines = load("canvas-sd"), []
        for target in (*OBJECTS, *STYLES):
            for row in ROWS:
                print(f"{target}: {row}", file=sys.stderr, flush=True)
                lines.append(measured(family, row, target, options.out))
    if options.keep:
        write_text(options.keep, "".join(json.dumps(line) + "\n" for line in lines))
    short = []
    for title, targets in (("Objects", OBJECTS), ("Styles", STYLES)):
        text, below = table(lines, targets)
        print(f"{title}: {', '.join(targets)}.\n\n{text}\n")
        short += below
    print("\n".join(short) or "No default has a lower H than an official recipe by more than the interval.")
    sys.exit(1 if short else 0)


if __name__ == "__main__":
    main()
