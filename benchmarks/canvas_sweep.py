"""Erase every Canvas object and style, one at a time, and measure each edit: a table of UA, IRA, CRA, H and aliases.

    python -m benchmarks.canvas_sweep --method speed --out benchmarks/results/canvas-sd-speed.json

Retained prompts contain no prompt of the protocol: other templates and, with the default vocabulary `canvas-strict`,
other names too (objects and styles appear under their aliases only, and never the target's). Results are kept target by
target, so that an interrupted sweep goes on where it stopped. `--table FILE ...` prints the table of finished sweeps.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch

from excise import erase, load
from excise.canvas import world
from excise.cli.options import parse_settings
from excise.cli.show import progress, say
from excise.evaluation import evaluate
from excise.files import write_json

MODEL = "canvas-sd"
COLUMNS = ("ua", "ira", "cra", "h", "alias_rate")
TARGETS = (*world.OBJECTS, *world.STYLES)


def sweep(
    out: Path, method: str, vocabulary: str, settings: dict[str, Any], targets: Sequence[str], precision: str
) -> dict[str, Any]:
    """Run what `out` does not hold yet; returns its whole content."""
    request = {
        "model": MODEL,
        "method": method,
        "vocabulary": vocabulary,
        "settings": settings,
        "precision": precision,
    }
    content: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {**request, "targets": {}}
    if {k: content[k] for k in request} != request:
        raise SystemExit(
            f"{out} holds another sweep ({content['method']}, {content['settings']}); choose another --out"
        )
    content["commit"] = _commit()
    family = load(MODEL)
    if "untouched" not in content:
        with progress("untouched") as advance, drawing_in(precision):
            base = evaluate(family, model_name=MODEL, progress=advance).result
        content |= {"protocol": base.protocol, "hash": base.hash, "untouched": base.metrics}
        write_json(out, content)
    for target in targets:
        if target in content["targets"]:
            continue
        edit = erase(family, [target], method=method, vocabulary=vocabulary, model_name=MODEL, **settings)
        with progress(f"{method}: {target}") as advance, drawing_in(precision):
            found = evaluate(family, [target], edits=[edit], model_name=MODEL, progress=advance).result
        content["targets"][target] = {"metrics": found.metrics, "became": found.became[target]}
        write_json(out, content)
        say(f"{target}: " + ", ".join(f"{c} {found.metrics[c]['value']:.3f}" for c in COLUMNS))
    return content


def drawing_in(precision: str) -> AbstractContextManager[Any]:
    """Draw in single precision, or in bfloat16 where torch's autocast allows it (edits are made in float64 anyway)."""
    return torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16")


def table(content: dict[str, Any]) -> str:
    """A Markdown table: one line a target, means beneath, relative to the untouched model where that is the goal."""
    done = content["targets"]
    lines = [
        f"{content['method']} on {content['model']}, {content['protocol']} ({content['hash'][:12]}), "
        f"retained: {content['vocabulary']}, drawn in {content['precision']}, commit {content['commit'][:12]}",
        "",
        "| target | UA | IRA | CRA | H | alias rate |",
        "|---|---|---|---|---|---|",
    ]
    for target, result in done.items():
        cells = (f"{100 * result['metrics'][c]['value']:.1f}" for c in COLUMNS)
        lines.append(f"| {target} | " + " | ".join(cells) + " |")
    for title, group in (("mean, objects", world.OBJECTS), ("mean, styles", world.STYLES), ("mean, all", TARGETS)):
        means = mean_metrics(content, group)
        if means:
            lines.append(f"| **{title}** | " + " | ".join(f"**{100 * means[c]:.2f}**" for c in COLUMNS) + " |")
    o, s = (content["untouched"][k]["value"] for k in ("object_accuracy", "style_accuracy"))
    lines += ["", f"Untouched: object accuracy {100 * o:.2f}, style accuracy {100 * s:.2f}."]
    relative = relative_to_untouched(content)
    lines.append(
        f"Relative to the untouched model: IRA {100 * relative['ira']:.2f} %, CRA {100 * relative['cra']:.2f} %."
    )
    return "\n".join(lines)


def mean_metrics(content: dict[str, Any], group: Sequence[str] | dict[str, Any]) -> dict[str, float]:
    """Mean of each column over the finished targets of a group; empty when there are none."""
    rows = [content["targets"][t]["metrics"] for t in group if t in content["targets"]]
    return {c: sum(r[c]["value"] for r in rows) / len(rows) for c in COLUMNS} if rows else {}


def relative_to_untouched(content: dict[str, Any]) -> dict[str, float]:
    """Mean IRA and CRA over all targets, each divided by what the untouched model scores on that attribute."""
    base = {k: content["untouched"][f"{k}_accuracy"]["value"] for k in ("object", "style")}
    ira, cra = [], []
    for target, result in content["targets"].items():
        own, other = ("object", "style") if target in world.OBJECTS else ("style", "object")
        ira.append(result["metrics"]["ira"]["value"] / base[own])
        cra.append(result["metrics"]["cra"]["value"] / base[other])
    return {"ira": sum(ira) / len(ira), "cra": sum(cra) / len(cra)}


def _commit() -> str:
    done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    dirty = subprocess.run(["git", "status", "--porcelain", "src"], capture_output=True, text=True, check=False).stdout
    return done.stdout.strip() + (" with changes in src" if dirty.strip() else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--method", default="speed")
    parser.add_argument("--vocabulary", default="canvas-strict")
    parser.add_argument(
        "--set", action="append", default=[], dest="settings", help="a setting of the method, key=value"
    )
    parser.add_argument("--target", action="append", choices=TARGETS, help="only these; repeatable")
    parser.add_argument(
        "--precision", choices=["float32", "bfloat16"], default="float32", help="in which images are drawn"
    )
    parser.add_argument("--out", type=Path)
    parser.add_argument("--table", type=Path, nargs="+", help="print the tables of finished sweeps and stop")
    options = parser.parse_args()
    if options.table:
        print("\n\n".join(table(json.loads(path.read_text())) for path in options.table))
        return
    out = options.out or Path(f"benchmarks/results/{MODEL}-{options.method}.json")
    content = sweep(
        out,
        options.method,
        options.vocabulary,
        parse_settings(options.settings),
        options.target or TARGETS,
        options.precision,
    )
    print(table(content))


if __name__ == "__main__":
    main()
