"""A plain negative prompt, the concept's own name, as the control of methods that erase: on any built-in model.

    python -m benchmarks.negative_prompt --model canvas-flux --out lines.jsonl --target cat --target neon

The prompts, seeds and judge are those of canvas-mini; the unconditional half of guidance is the concept's name instead
of the empty prompt. One line a target is added to the file, and those that are in it are not drawn again; the means
over its lines are printed.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from excise import load
from excise.families import BUILT_IN
from excise.families.base import Family
from excise.judges import JUDGES
from excise.protocols.base import asks
from excise.protocols.canvas import canvas_mini
from excise.support.precision import fastest

TARGETS = (
    *("cat", "dog", "car", "tree", "guitar", "castle", "apple", "airplane"),
    *("watercolor", "neon", "sepia", "dots"),
)


def measure(family: Family, name: str, batch: int) -> dict[str, float]:
    """Return UA, IRA, CRA and how often aliases show the target, as shares."""
    plan = canvas_mini()
    target = plan.target_of(name)
    items = list(plan.select((target,), ["grid", "aliases"]))
    prompts, seeds = [i.prompt for i in items], [plan.seed(i) for i in items]
    negative = family.condition([name])
    family.unconditional = lambda: negative  # type: ignore[method-assign]
    with fastest("cpu"):
        images = family.sample(prompts, seeds, steps=plan.steps, guidance=plan.guidance, batch=batch)
    del family.unconditional
    seen = JUDGES.load("canvas-judge-a")(None).verdicts(images)
    right = [{a: seen[a][n] == label for a, label in i.asked.items()} for n, i in enumerate(items)]
    mine, cross = target[0], "style" if target[0] == "object" else "object"
    own = [r[mine] for i, r in zip(items, right, strict=True) if i.group == "grid" and asks(i.asked, (target,))]
    other = [r for i, r in zip(items, right, strict=True) if i.group == "grid" and not asks(i.asked, (target,))]
    alias = [r[mine] for i, r in zip(items, right, strict=True) if i.group == "aliases"]
    return {
        "ua": 1 - share(own),
        "ira": share([r[mine] for r in other]),
        "cra": share([r[cross] for r in other]),
        "aliases": share(alias),
    }


def share(hits: Sequence[bool]) -> float:
    """Return the share of hits."""
    return sum(hits) / len(hits)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="canvas-sd", choices=BUILT_IN)
    parser.add_argument("--target", action="append", help="all of the table's by default")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--batch", type=int, default=24)
    options = parser.parse_args()
    lines = [json.loads(line) for line in options.out.read_text().splitlines()] if options.out.exists() else []
    done = {line["target"] for line in lines if line["model"] == options.model}
    family = load(options.model, device="cpu", dtype="float32")
    for target in options.target or TARGETS:
        if target not in done:
            lines.append({"model": options.model, "target": target, **measure(family, target, options.batch)})
            with options.out.open("a") as file:
                file.write(json.dumps(lines[-1]) + "\n")
    mine = [line for line in lines if line["model"] == options.model]
    means = {key: 100 * sum(line[key] for line in mine) / len(mine) for key in ("ua", "ira", "cra", "aliases")}
    print(f"{options.model}, {len(mine)} targets: " + ", ".join(f"{k.upper()} {v:.1f}" for k, v in means.items()))


if __name__ == "__main__":
    main()
