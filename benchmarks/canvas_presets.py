"""Compare settings of a method on Canvas with prompts and seeds of no protocol; the presets were chosen with it.

    python -m benchmarks.canvas_presets --method speed --set ridge=0.05 --set ridge=0.02,threshold=0.2

    python -m benchmarks.canvas_presets --method scapre --names 100 --set relevance=none

    python -m benchmarks.canvas_presets --model canvas-flux --method uce --set tokens=all --target cat --target neon

Each `--set` is a candidate; without any, the preset is measured. Every object and style is erased alone, and ten images
of the target and ten of other cells are drawn (template "a {o} in {s} style", seeds of this script). With `--names` N,
N further names are erased at once instead; fifty of them and fifty retained ones are drawn ("a picture of a {o}").
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Sequence
from typing import Any

from excise import erase, load
from excise.canvas import world
from excise.cli.options import parse_settings
from excise.families import BUILT_IN
from excise.families.base import Family
from excise.judges.canvas import CanvasJudge
from excise.protocols.canvas import GUIDANCE, STEPS
from excise.support.digests import seed_of
from excise.support.precision import fastest

TEMPLATE = "a {o} in {s} style"
NAME_TEMPLATE = "a picture of a {o}"
IMAGES = 10
NAMES_DRAWN = 50
Cell = tuple[str, str]


def chosen_cells(target: str) -> tuple[list[Cell], list[Cell]]:
    """Return ten cells with the target and ten without, the same for every candidate."""
    cells = [(o, s) for o in world.OBJECTS for s in world.STYLES]
    random.Random(f"canvas-presets {target}").shuffle(cells)
    with_target = [c for c in cells if target in c]
    return with_target[:IMAGES], [c for c in cells if target not in c][:IMAGES]


def measure(family: Family, target: str) -> dict[str, float]:
    """Return UA, IRA and CRA over the twenty cells of a target."""
    with_target, others = chosen_cells(target)
    cells = with_target + others
    labels = draw_and_judge(family, cells, [TEMPLATE.format(o=o, s=s) for o, s in cells])
    own, other = ("object", "style") if target in world.OBJECTS else ("style", "object")
    at = {"object": 0, "style": 1}

    def share(head: str, rows: range) -> float:
        return sum(labels[head][i] == cells[i][at[head]] for i in rows) / len(rows)

    retained = range(len(with_target), len(cells))
    return {"ua": 1 - share(own, range(len(with_target))), "ira": share(own, retained), "cra": share(other, retained)}


def draw_and_judge(family: Family, cells: Sequence[Cell], prompts: Sequence[str]) -> dict[str, list[str]]:
    """Draw an image of each prompt, seeded by its cell, and return the judge's labels by attribute."""
    seeds = [seed_of("canvas-presets", c) for c in cells]  # of no protocol
    with fastest("cpu"):
        images = family.sample(prompts, seeds, steps=STEPS, guidance=GUIDANCE, batch=20)
    return CanvasJudge("a").verdicts(images)


def at_scale(family: Family, method: str, settings: dict[str, Any], count: int) -> str:
    """Erase `count` names together and return the accuracies on erased and retained names as text."""
    began = time.perf_counter()
    erased, retained = world.list_a()[:count], world.list_b()
    if count > len(erased):  # as the protocol canvas-names-200
        erased, retained = list(world.NAMES)[:count], list(world.OBJECTS)
    edit = erase(family, erased, method=method, vocabulary="canvas-strict", **settings)
    spent = time.perf_counter() - began
    with edit.apply(family):
        accuracies = accuracy(family, erased, retained)
    e, r = accuracies["acc_e"], accuracies["acc_r"]
    h = 2 / (1 / (1 - e) + 1 / r) if e < 1 and r > 0 else 0.0
    return f"Acc_e {e:.3f}, Acc_r {r:.3f}, H_o {h:.3f}, erased in {spent:.1f} s"


def accuracy(family: Family, erased: Sequence[str], retained: Sequence[str]) -> dict[str, float]:
    """Return `acc_e` and `acc_r`, the shares of right images of erased and of retained names, up to fifty of each."""
    shares = []
    for names in (erased, retained):
        some = random.Random("canvas-presets names").sample(list(names), min(NAMES_DRAWN, len(names)))
        labels = draw_and_judge(family, [(n, "plain") for n in some], [NAME_TEMPLATE.format(o=n) for n in some])
        shares.append(sum(a == b for a, b in zip(labels["object"], some, strict=True)) / len(some))
    return {"acc_e": shares[0], "acc_r": shares[1]}


def candidate(family: Family, method: str, settings: dict[str, Any], targets: Sequence[str]) -> dict[str, Any]:
    """Return mean UA, IRA and CRA over targets, the targets with a UA below 1 (`left`), and seconds."""
    began = time.perf_counter()
    by_target = {}
    for target in targets:
        edit = erase(family, [target], method=method, vocabulary="canvas-strict", **settings)
        with edit.apply(family):
            by_target[target] = measure(family, target)
    means = {k: sum(m[k] for m in by_target.values()) / len(by_target) for k in ("ua", "ira", "cra")}
    left = {t: m["ua"] for t, m in by_target.items() if m["ua"] < 1}
    return {**means, "left": left, "seconds": time.perf_counter() - began}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="canvas-sd", choices=BUILT_IN)
    parser.add_argument("--method", default="speed")
    parser.add_argument("--set", action="append", dest="candidates", help="settings of one candidate, key=value,...")
    parser.add_argument("--names", type=int, help="erase so many names at once instead of each target alone")
    parser.add_argument("--target", action="append", choices=(*world.OBJECTS, *world.STYLES))
    options = parser.parse_args()
    family = load(options.model)
    targets = options.target or (*world.OBJECTS, *world.STYLES)
    for text in options.candidates or [""]:
        if options.names:
            settings = parse_settings(text.split(",") if text else [])
            print(
                f"{options.method} {text or 'preset'}: {at_scale(family, options.method, settings, options.names)}",
                flush=True,
            )
            continue
        result = candidate(family, options.method, parse_settings(text.split(",") if text else []), targets)
        print(
            f"{options.method} {text or 'preset'}: UA {result['ua']:.3f}, IRA {result['ira']:.3f}, "
            f"CRA {result['cra']:.3f}, {result['seconds']:.0f} s; UA below 1: {result['left']}",
            flush=True,
        )


if __name__ == "__main__":
    main()
