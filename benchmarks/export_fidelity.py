"""Compare images of exported edits, loaded by stock diffusers, with those of the applied edit.

    python -m benchmarks.export_fidelity
    python -m benchmarks.export_fidelity --edit runs/dog/edit.safetensors

The first form creates edits of `canvas-sd` with SPEED and UCE and tries every format; the second takes an edit of any
built-in model and tries the diffusers LoRA. Both print the largest pixel difference (0..1) over a few prompts, and that
between the edited and the untouched model, which shows that the edit has an effect.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline, SanaPipeline

from excise import Edit, erase, export, load
from excise.canvas import world
from excise.families.built_in import WEIGHTS
from excise.families.load import quiet
from excise.protocols.canvas import GUIDANCE, STEPS

PROMPTS = [world.grid_prompt(*cell) for cell in (("cat", "plain"), ("cat", "neon"), ("dog", "sketch"))]


def pictures(pipe: Any, prompts: Sequence[str] = PROMPTS) -> np.ndarray:
    """Return images of n prompts with seeds 0 .. n - 1, (n, 64, 64, 3) in 0..1."""
    generators = [torch.Generator().manual_seed(i) for i in range(len(prompts))]
    options = {"num_inference_steps": STEPS, "guidance_scale": GUIDANCE, "generator": generators, "output_type": "np"}
    if isinstance(pipe, SanaPipeline):  # see docs/families.md
        options |= {"complex_human_instruction": None, "use_resolution_binning": False, "height": 64, "width": 64}
    return np.asarray(pipe(list(prompts), **options).images)


def stock(path: Path, kind: str, model: str = "canvas-sd") -> Any:
    """Load an export with diffusers alone.

    Args:
        path: of the export.
        kind: its format.
        model: the base of a LoRA or a single file.
    """
    if kind == "merged":
        pipe = DiffusionPipeline.from_pretrained(path)
    elif kind == "single-file":
        base = DiffusionPipeline.from_pretrained(WEIGHTS / model)
        pipe = type(base).from_single_file(str(path), config=str(WEIGHTS / model), local_files_only=True)
    else:
        pipe = DiffusionPipeline.from_pretrained(WEIGHTS / model)
        pipe.load_lora_weights(str(path.parent), weight_name=path.name)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def of_edit(path: Path) -> None:
    """Compare an edit of a built-in model with its LoRA in the stock pipeline, and print the difference."""
    edit = Edit.load(path)
    model, name = edit.record.base.model, edit.record.concepts[0].name
    family = load(model, device="cpu")
    family.pipe.set_progress_bar_config(disable=True)
    prompts = [f"a {name}", f"a {name} in neon style", *PROMPTS]
    untouched = pictures(family.pipe, prompts)
    with edit.apply(family):
        edited = pictures(family.pipe, prompts)
    with tempfile.TemporaryDirectory() as folder:
        exported = export(edit, family, Path(folder), "diffusers-lora")
        pipe = stock(exported.path, "diffusers-lora", model)
        difference = np.abs(pictures(pipe, prompts) - edited).max()
    print(
        f"{edit.record.method} without {name}, {type(pipe).__name__} of {model}: the edit moves pixels by up to "
        f"{np.abs(edited - untouched).max():.3f}; largest difference of the LoRA {difference:.2e}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--edit", type=Path, action="append", help="edit of a built-in model; repeatable")
    options = parser.parse_args()
    for path in options.edit or []:
        of_edit(path)
    if options.edit:
        return
    family = load("canvas-sd", device="cpu")
    family.pipe.set_progress_bar_config(disable=True)
    untouched = pictures(family.pipe)
    for method in ("speed", "uce"):
        edit = erase(family, ["cat"], method=method, vocabulary="canvas-strict", model_name="canvas-sd")
        with edit.apply(family):
            edited = pictures(family.pipe)
        print(f"{method}: the edit moves pixels by up to {np.abs(edited - untouched).max():.3f}")
        for kind in ("diffusers-lora", "kohya-lora", "merged", "single-file"):
            with tempfile.TemporaryDirectory() as folder:
                exported = export(edit, family, Path(folder), kind)
                difference = np.abs(pictures(stock(exported.path, kind)) - edited).max()
            print(f"{method}, {kind}: largest difference {difference:.2e}", flush=True)
        print(f"{method}, after removal: {np.abs(pictures(family.pipe) - untouched).max():.1e}")


if __name__ == "__main__":
    with quiet():
        main()
