"""How far images of an exported edit lie from those of the applied edit, each export loaded by stock diffusers.

    python -m benchmarks.export_fidelity

Prints, for each method and format, the largest pixel difference (0..1) over a few prompts, beside that of the edit
itself to the untouched model, which tells whether the edit did anything.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionPipeline

from excise import erase, export, load
from excise.built_in import WEIGHTS
from excise.canvas import world
from excise.families.load import quiet
from excise.protocols.canvas import GUIDANCE, STEPS

PROMPTS = [world.grid_prompt(*cell) for cell in (("cat", "plain"), ("cat", "neon"), ("dog", "sketch"))]


def pictures(pipe: Any) -> np.ndarray:
    """(3, 64, 64, 3) in 0..1, seeds 0, 1, 2."""
    generators = [torch.Generator().manual_seed(i) for i in range(len(PROMPTS))]
    options = {"num_inference_steps": STEPS, "guidance_scale": GUIDANCE, "generator": generators, "output_type": "np"}
    return np.asarray(pipe(PROMPTS, **options).images)


def stock(path: Path, kind: str) -> Any:
    """A pipeline that diffusers alone has put together."""
    if kind == "merged":
        pipe = StableDiffusionPipeline.from_pretrained(path)
    else:
        pipe = StableDiffusionPipeline.from_pretrained(WEIGHTS / "canvas-sd")
        pipe.load_lora_weights(str(path.parent), weight_name=path.name)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def main() -> None:
    family = load("canvas-sd", device="cpu")
    family.pipe.set_progress_bar_config(disable=True)
    untouched = pictures(family.pipe)
    for method in ("speed", "uce"):
        edit = erase(family, ["cat"], method=method, vocabulary="canvas-strict", model_name="canvas-sd")
        with edit.apply(family):
            edited = pictures(family.pipe)
        print(f"{method}: the edit moves pixels by up to {np.abs(edited - untouched).max():.3f}")
        for kind in ("diffusers-lora", "kohya-lora", "merged"):
            with tempfile.TemporaryDirectory() as folder:
                exported = export(edit, family, Path(folder), kind)
                found = np.abs(pictures(stock(exported.path, kind)) - edited).max()
            print(f"{method}, {kind}: largest difference {found:.2e}", flush=True)
        print(f"{method}, after removal: {np.abs(pictures(family.pipe) - untouched).max():.1e}")


if __name__ == "__main__":
    with quiet():
        main()
