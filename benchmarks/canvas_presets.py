"""Compare settings of a method on Canvas, on prompts and seeds that no protocol uses: how the presets were chosen.

    python -m benchmarks.canvas_presets --method speed --set ridge=0.05 --set ridge=0.02,threshold=0.2

    python -m benchmarks.canvas_presets --method scapre --names 100 --set relevance=none

Each `--set` is one candidate (none: the preset as it is). Every object and style is erased alone; ten images of the
target and ten of other cells are drawn (template "a {o} in {s} style", seeds of this script). With `--names` that many
names at scale are erased at once instead; fifty of them and fifty of those kept are drawn ("a picture of a {o}").
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Sequence
from typing import Any

import torch

from excise import erase, load
from excise.canvas import world
from excise.cli.options import parse_settings
from excise.families.base import Family
from excise.judges.canvas import CanvasJudge
from excise.protocols.canvas import GUIDANCE, STEPS
from excise.support.digests import seed_of

TEMPLATE = "a {o} in {s} style"
NAME_TEMPLATE = "a picture of a {o}"
IMAGES = 10
NAMES_DRAWN = 50
Cell = tuple[str, str]


def chosen_cells(target: str) -> tuple[list[Cell], list[Cell]]:
    """Ten cells that ask for the target and ten that do not, the same for every candidate."""
    cells = [(o, s) for o in world.OBJECTS for s in world.STYLES]
    random.Random(f"canvas-presets {target}").shuffle(cells)
    asking = [c for c in cells if target in c]
    return asking[:IMAGES], [c for c in cells if target not in c][:IMAGES]


def measure(family: Family, target: str) -> dict[str, float]:
    """UA, IRA and CRA over the target's twenty cells."""
    asking, others = chosen_cells(target)
    cells = asking + others
    seen = drawn(family, cells, [TEMPLATE.format(o=o, s=s) for o, s in cells])
    own, other = ("object", "style") if target in world.OBJECTS else ("style", "object")
    at = {"object": 0, "style": 1}

    def share(head: str, rows: range) -> float:
        return sum(seen[head][i] == cells[i][at[head]] for i in rows) / len(rows)

    kept = range(len(asking), len(cells))
    return {"ua": 1 - share(own, range(len(asking))), "ira": share(own, kept), "cra": share(other, kept)}


def drawn(family: Family, cells: Sequence[Cell], prompts: Sequence[str]) -> Any:
    """What the judge sees in a picture of each prompt."""
    seeds = [seed_of("canvas-presets", c) for c in cells]  # of no protocol
    with torch.autocast("cpu", torch.bfloat16):
        images = family.sample(prompts, seeds, steps=STEPS, guidance=GUIDANCE, batch=20)
    return CanvasJudge("a").verdicts(images)


def at_scale(family: Family, method: str, settings: dict[str, Any], count: int) -> str:
    """Accuracy on names erased together and on names kept."""
    began = time.perf_counter()
    gone, kept = world.list_a()[:count], world.list_b()
    if count > len(gone):  # as the protocol canvas-names-200
        gone, kept = list(world.NAMES)[:count], list(world.OBJECTS)
    edit = erase(family, gone, method=method, vocabulary="canvas-strict", **settings)
    spent = time.perf_counter() - began
    with edit.apply(family):
        found = accuracy(family, gone, kept)
    e, r = found["acc_e"], found["acc_r"]
    h = 2 / (1 / (1 - e) + 1 / r) if e < 1 and r > 0 else 0.0
    return f"Acc_e {e:.3f}, Acc_r {r:.3f}, H_o {h:.3f}, erased in {spent:.1f} s"


def accuracy(family: Family, gone: Sequence[str], kept: Sequence[str]) -> dict[str, float]:
    """How often names that were erased and names that are kept are drawn, in up to fifty pictures of each."""
    shares = []
    for names in (gone, kept):
        some = random.Random("canvas-presets names").sample(list(names), min(NAMES_DRAWN, len(names)))
        seen = drawn(family, [(n, "plain") for n in some], [NAME_TEMPLATE.format(o=n) for n in some])
        shares.append(sum(a == b for a, b in zip(seen["object"], some, strict=True)) / len(some))
    return {"acc_e": shares[0], "acc_r": shares[1]}


def candidate(family: Family, method: str, settings: dict[str, Any], targets: Sequence[str]) -> dict[str, Any]:
    """Means over the targets, and the targets that did not go wholly."""
    began = time.perf_counter()
    found = {}
    for target in targets:
        edit = erase(family, [target], method=method, vocabulary="canvas-strict", **settings)
        with edit.apply(family):
            found[target] = measure(family, target)
    means = {k: sum(f[k] for f in found.values()) / len(found) for k in ("ua", "ira", "cra")}
    left = {t: f["ua"] for t, f in found.items() if f["ua"] < 1}
    return {**means, "left": left, "seconds": time.perf_counter() - began}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--method", default="speed")
    parser.add_argument("--set", action="append", dest="candidates", help="settings of one candidate, key=value,...")
    parser.add_argument("--names", type=int, help="erase so many names at once instead of each target alone")
    parser.add_argument("--target", action="append", choices=(*world.OBJECTS, *world.STYLES))
    options = parser.parse_args()
    family = load("canvas-sd")
    targets = options.target or (*world.OBJECTS, *world.STYLES)
    for text in options.candidates or [""]:
        if options.names:
            settings = parse_settings(text.split(",") if text else [])
            print(
                f"{options.method} {text or 'preset'}: {at_scale(family, options.method, settings, options.names)}",
                flush=True,
            )
            continue
        found = candidate(family, options.method, parse_settings(text.split(",") if text else []), targets)
        print(
            f"{options.method} {text or 'preset'}: UA {found['ua']:.3f}, IRA {found['ira']:.3f}, "
            f"CRA {found['cra']:.3f}, {found['seconds']:.0f} s; not wholly gone: {found['left']}",
            flush=True,
        )


if __name__ == "__main__":
    main()
