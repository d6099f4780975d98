"""Methods that act while the model draws, beside UCE and a plain negative prompt, on a sample of canvas-mini.

    python -m benchmarks.inference_methods --out runs/inference --cells 4 --aliases 2

Every concept is erased alone. Drawn are some cells of the grid with it, some prompts with its aliases, and some cells
without it; every image is kept in a cache, so an interrupted run goes on where it stopped. Prints a table.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from excise import erase, load
from excise.families.drawing import draw
from excise.judges import JUDGES
from excise.protocols.base import asks
from excise.protocols.canvas import canvas_mini
from excise.support.selection import evenly

TARGETS = ("cat", "guitar", "house", "fish", "neon", "blueprint")
ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "uce": ("uce", {}),
    "negative prompt": ("safree", {"project": False, "negative": True}),
    "sld, light": ("sld", {"scale": 2.0, "threshold": 1.0, "momentum_scale": 0.0}),
    "sld, medium": ("sld", {"level": "medium"}),
    "sld, max": ("sld", {"level": "max"}),
    "safree": ("safree", {}),
    "adavd": ("adavd", {}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cells", type=int, default=4, help="Cells of the grid with the target, and as many without.")
    parser.add_argument("--aliases", type=int, default=2, help="Prompts with aliases of the target.")
    parser.add_argument("--targets", nargs="+", default=TARGETS)
    options = parser.parse_args()
    family, judge, plan = load("canvas-sd", device="cpu"), JUDGES.load("canvas-judge-a")(None), canvas_mini()
    results = options.out / "results.json"
    cells = json.loads(results.read_text()) if results.exists() else {}
    for name in options.targets:
        target = plan.target_of(name)
        grid = list(plan.select((target,), ["grid", "aliases"]))
        own = evenly([i for i in grid if i.group == "grid" and asks(i.asked, (target,))], options.cells)
        other = evenly([i for i in grid if i.group == "grid" and not asks(i.asked, (target,))], options.cells)
        alias = evenly([i for i in grid if i.group == "aliases" and i.target == name], options.aliases)
        items = [*own, *other, *alias]
        for row, (method, settings) in ROWS.items():
            key = f"{row} | {name} | {options.cells} {options.aliases}"
            if key in cells:
                continue
            edit = erase(family, [name], method=method, **settings)
            with edit.apply(family):
                requests = [(i.prompt, plan.seed(i)) for i in items]
                images = draw(
                    family,
                    requests,
                    steps=plan.steps,
                    guidance=plan.guidance,
                    batch=len(items),
                    cache=options.out / "images",
                )
            seen = judge.verdicts(images)
            right = [{a: seen[a][n] == label for a, label in i.asked.items()} for n, i in enumerate(items)]
            first, second = len(own), len(own) + len(other)
            mine, cross = target[0], "style" if target[0] == "object" else "object"
            cells[key] = {
                "ua": [not r[mine] for r in right[:first]],
                "cross": [r[cross] for r in right[:first]],
                "ira": [r[mine] for r in right[first:second]],
                "cra": [r[cross] for r in right[first:second]],
                "aliases": [not r[mine] for r in right[second:]],
            }
            results.parent.mkdir(parents=True, exist_ok=True)
            results.write_text(json.dumps(cells, indent=1))
    print(table(cells))


def table(cells: dict[str, dict[str, list[bool]]]) -> str:
    """The shares in per cent, objects and styles together; `CRA` counts the target's own prompts too."""
    lines = ["| method | UA | IRA | CRA | aliases |", "|---|---|---|---|---|"]
    for row in ROWS:
        mine = [c for key, c in cells.items() if key.startswith(f"{row} | ")]
        if mine:
            sums = {k: [hit for c in mine for hit in c[k]] for k in mine[0]}
            sums["cra"] += sums.pop("cross")
            shown = (f"{100 * sum(sums[k]) / len(sums[k]):.0f}" for k in ("ua", "ira", "cra", "aliases"))
            lines.append(f"| {row} | {' | '.join(shown)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
