"""ESD in the text encoder beside ESD in the denoiser, on Canvas: unlearning, retention, aliases.

    python -m benchmarks.esd_text_encoder --out results.jsonl

Four objects and two styles are erased alone by each row, and drawn by the protocol canvas-mini. A line is written for
each finished edit; lines that are there already are not computed again.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from statistics import mean
from typing import Any

from excise import Edit, erase, evaluate, load
from excise.cli.options import parse_settings
from excise.families.base import Family

CONCEPTS = ("cat", "guitar", "house", "fish", "neon", "blueprint")
ROWS: dict[str, dict[str, Any]] = {
    "esd": {},
    "esd, text encoder": {"train": "text_encoder"},
}
METRICS = ("ua", "ira", "cra", "alias_rate")


def made(family: Family, row: str, concept: str, further: dict[str, Any], folder: Path | None) -> Edit:
    """The edit of one row; read from the folder where it is there already, else saved in it."""
    path = folder / f"{row.replace(', ', '-').replace(' ', '-')}-{concept}.safetensors" if folder else None
    if path is not None and path.exists():
        return Edit.load(path)
    edit = erase(family, [concept], "esd", **{**ROWS[row], **further})
    if path is not None:
        edit.save(path)
    return edit


def measured(family: Family, edit: Edit, concept: str) -> dict[str, float]:
    """The metrics of one edit, by canvas-mini."""
    metrics = evaluate(family, [concept], edits=[edit], protocol="canvas-mini").result.metrics
    return {name: float(metrics[name]["value"]) for name in METRICS if name in metrics}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("esd-text-encoder.jsonl"))
    parser.add_argument("--edits", type=Path, help="folder to save the edits in")
    parser.add_argument("--row", action="append", choices=list(ROWS), help="all of them by default")
    parser.add_argument("--concept", action="append", choices=CONCEPTS, help="all of them by default")
    parser.add_argument("--set", default="", help="further settings of every row, key=value,...")
    options = parser.parse_args()
    family, further = load("canvas-sd"), parse_settings(options.set.split(",") if options.set else [])
    lines = [json.loads(x) for x in options.out.read_text().splitlines()] if options.out.exists() else []
    known = {(x["row"], x["concept"]) for x in lines}
    for row in options.row or ROWS:
        for concept in options.concept or CONCEPTS:
            if (row, concept) in known:
                continue
            began = time.perf_counter()
            edit = made(family, row, concept, further, options.edits)
            seconds = time.perf_counter() - began
            line = {"row": row, "concept": concept, **measured(family, edit, concept), "seconds": round(seconds)}
            line["step"] = edit.record.measured["step"]
            lines.append(line)
            print(json.dumps(line), flush=True)
            with options.out.open("a") as file:
                file.write(json.dumps(line) + "\n")
        own = [x for x in lines if x["row"] == row]
        print(row, {name: round(mean(x[name] for x in own), 3) for name in METRICS if name in own[0]}, flush=True)


if __name__ == "__main__":
    main()
