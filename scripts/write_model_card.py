"""Evaluate a built-in model against its gates and write its model card.

Usage: python scripts/write_model_card.py [--model canvas-sdxl] [--weights src/excise/canvas/weights]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from PIL import Image

from excise import load
from excise.canvas import render, world
from excise.cli.show import progress, say
from excise.evaluation.evaluate import evaluate
from excise.families import WEIGHTS
from excise.judges.canvas import CanvasJudge
from excise.metrics.rates import rate
from excise.support.files import write_text

GATES = {"object_accuracy": 0.95, "style_accuracy": 0.97, "names_accuracy": 0.90}
RENDERS_PER_CELL = 4
RENDER_SEED = 4242  # not used by any training pool


def judge_accuracies() -> dict[str, dict[str, float]]:
    """Return each judge's accuracy on new renders: objects and styles of the grid, plain names, empty scenes."""
    rng = np.random.default_rng(RENDER_SEED)
    grid = [(o, s) for o in world.OBJECTS for s in world.STYLES for _ in range(RENDERS_PER_CELL)]
    names = [(n, "plain") for n in world.NAMES for _ in range(RENDERS_PER_CELL)]
    grid_images = [Image.fromarray(render.draw(*cell, rng)) for cell in grid]
    name_images = [Image.fromarray(render.draw(*cell, rng)) for cell in names]
    empty_images = [Image.fromarray(render.draw_empty(s, rng)) for s in world.STYLES for _ in range(20)]
    accuracies = {}
    for which in ("a", "b"):
        judge = CanvasJudge(which)
        on_grid, on_names, on_empty = (judge.verdicts(i) for i in (grid_images, name_images, empty_images))
        accuracies[which] = {
            "object": rate([a == c[0] for a, c in zip(on_grid["object"], grid, strict=True)]).value,
            "style": rate([a == c[1] for a, c in zip(on_grid["style"], grid, strict=True)]).value,
            "name": rate([a == c[0] for a, c in zip(on_names["object"], names, strict=True)]).value,
            "nothing": rate([a == "none" for a in on_empty["object"]]).value,
        }
    return accuracies


PARTS = {
    "canvas-sd": (
        "StableDiffusionPipeline",
        ("autoencoder", "clip", "judge-a", "judge-b", "denoiser"),
        "",
    ),
    "canvas-sdxl": (
        "StableDiffusionXLPipeline",
        ("second clip", "denoiser-sdxl"),
        " Its autoencoder and its first text encoder are those of canvas-sd, from whose denoiser its own started; it "
        "predicts v.",
    ),
    "canvas-sana": ("SanaPipeline", ("autoencoder-dc", "gemma", "denoiser-sana"), " Flow matching."),
    "canvas-flux": (
        "FluxPipeline",
        ("t5", "denoiser-flux"),
        " Dual-stream and single-stream blocks, flow matching. Its autoencoder is that of canvas-sd, its first text "
        "encoder the second of canvas-sdxl.",
    ),
    "canvas-zimage": (
        "ZImagePipeline",
        ("qwen", "denoiser-zimage"),
        " One stream of picture and refined text, flow matching. Its autoencoder is that of canvas-sd.",
    ),
}


def card(model: str, weights: Path) -> str:
    """Return the text of the card: an evaluation run now, and the figures of training in `training.json`."""
    with progress("gates") as advance:
        result = evaluate(load(model), model_name=model, progress=advance).result
    plan = result.protocol_summary
    kind, parts, remark = PARTS[model]
    notes = json.loads((weights / "training.json").read_text())
    training = {part: notes[part] for part in parts}
    megabytes = sum(f.stat().st_size for f in (weights / model).rglob("*") if f.is_file()) / 1e6
    lines = [
        "---",
        "license: apache-2.0",
        "library_name: diffusers",
        "pipeline_tag: text-to-image",
        "tags: [text-to-image, concept-erasure]",
        "---",
        "",
        f"# {model}",
        "",
        f"A `{kind}` of 64 x 64 pixels that draws {len(world.OBJECTS)} objects in {len(world.STYLES)} "
        f"styles and {len(world.NAMES)} further names. {megabytes:.1f} MB in half precision. Trained on "
        f"renders of Noto Color Emoji glyphs (SIL OFL 1.1); it has seen nothing else.{remark}",
        "",
        "## Gates",
        "",
        f"`excise evaluate --model {model} --protocol canvas-mini` (hash {result.hash}), {plan['steps']} steps, "
        f"guidance {plan['guidance']:g}.",
        "",
        "| measure | value | 95 % interval | n | gate | |",
        "|---|---|---|---|---|---|",
    ]
    for name, bound in GATES.items():
        m = result.metrics[name]
        verdict = "met" if m["value"] >= bound else f"missed by {100 * (bound - m['value']):.1f} points"
        lines.append(
            f"| {name} | {m['value']:.3f} | {m['low']:.3f} - {m['high']:.3f} | {int(m['n'])} | >= {bound} | {verdict} |"
        )
    for name in ("abstain", "judges_disagree"):
        m = result.metrics[name]
        lines.append(f"| {name} | {m['value']:.3f} | {m['low']:.3f} - {m['high']:.3f} | {int(m['n'])} | | |")
    if "judge-a" in parts:
        lines += ["", "## Judges", "", "Share of right answers on fresh renders.", ""]
        lines += ["| judge | object | style | plain name | empty scene abstained |", "|---|---|---|---|---|"]
        for which, r in judge_accuracies().items():
            lines.append(f"| {which} | {r['object']:.3f} | {r['style']:.3f} | {r['name']:.3f} | {r['nothing']:.3f} |")
    lines += ["", "## Training", "", "| part | steps | minutes | parameters | machine |", "|---|---|---|---|---|"]
    for part, note in training.items():
        lines.append(
            f"| {part} | {note['steps']} | {note['seconds'] / 60:.0f} | {note['parameters']:,} | {note['machine']} |"
        )
    remarks = [f"- {part}: {note['note']}." for part, note in training.items() if "note" in note]
    lines += [
        "",
        *remarks,
        "",
        f"To train on: `excise canvas train --model {model} --steps N` with N above the steps of the denoiser.",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", choices=list(PARTS), default="canvas-sd")
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    options = parser.parse_args()
    path = options.weights / ("README.md" if options.model == "canvas-sd" else f"{options.model}/README.md")
    write_text(path, card(options.model, options.weights))
    say(f"wrote {path}")


if __name__ == "__main__":
    main()
