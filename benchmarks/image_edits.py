"""Edit pictures of a target with prompts that name it or not: how often is the target still there?

    excise erase --model canvas-sd --method ace --concept dog --out runs/ace
    excise erase --model canvas-sd --method esd --concept dog --out runs/esd
    python -m benchmarks.image_edits --target dog --edit runs/ace/edit.safetensors --edit runs/esd/edit.safetensors

The untouched model draws the target in every style, with seeds of no protocol. Each picture is then given to the stock
image-to-image pipeline of diffusers with the prompt "a picture in S style", S another style (with `--named`: "a dog in
S style"), first to the untouched model, then with each edit applied. A strength of 0.2 noises the picture for a fifth
of the way, and the judge says what the edited picture shows. Printed, by model and strength: in how many of the
pictures it sees the target, and in how many the style that was asked for. An object only; the built-in Stable Diffusion
models.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionXLImg2ImgPipeline
from PIL import Image

from excise import Edit, load
from excise.canvas import world
from excise.families.pipeline import PipelineFamily
from excise.judges.canvas import judge_a
from excise.protocols.canvas import GUIDANCE, STEPS
from excise.support.digests import seed_of

PIPELINES = {"canvas-sd": StableDiffusionImg2ImgPipeline, "canvas-sdxl": StableDiffusionXLImg2ImgPipeline}


def sources(family: PipelineFamily, target: str, rounds: int) -> tuple[list[Image.Image], list[str], list[int]]:
    """Pictures of the target, a style that each is to be given, and a seed for that."""
    styles = [s for _ in range(rounds) for s in world.STYLES]
    prompts = [f"a {target} in {s} style" for s in styles]
    seeds = [seed_of("image-edits", (target, i)) for i in range(len(styles))]
    images = family.sample(prompts, seeds, steps=STEPS, guidance=GUIDANCE, batch=20)
    shift = [world.STYLES[(i * 3 + 1) % len(world.STYLES)] for i in range(len(styles))]
    return images, shift, seeds


def edited(
    family: PipelineFamily,
    pipeline: Any,
    images: Sequence[Image.Image],
    prompts: Sequence[str],
    seeds: Sequence[int],
    how: float,
) -> list[Image.Image]:
    """The pictures as the stock pipeline edits them."""
    pipeline = pipeline(**family.pipe.components)
    pipeline.set_progress_bar_config(disable=True)
    drawn: list[Image.Image] = pipeline(
        prompt=list(prompts),
        image=list(images),
        strength=how,
        num_inference_steps=round(STEPS / how),  # the steps that are left are as many as the protocol draws with
        guidance_scale=GUIDANCE,
        generator=[torch.Generator().manual_seed(s) for s in seeds],
    ).images
    return drawn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="canvas-sd", choices=sorted(PIPELINES))
    parser.add_argument("--target", required=True, choices=sorted(world.OBJECTS))
    parser.add_argument("--edit", type=Path, action="append", default=[], help="edit file of the target; repeatable")
    parser.add_argument("--strength", type=float, action="append", help="of image to image; repeatable")
    parser.add_argument("--named", action="store_true", help="name the target in the prompt of the edit")
    parser.add_argument("--rounds", type=int, default=4, help="pictures of each style")
    args = parser.parse_args()
    family = load(args.model)
    assert isinstance(family, PipelineFamily)
    images, styles, seeds = sources(family, args.target, args.rounds)
    judge = judge_a()
    there = [i for i, seen in enumerate(judge.verdicts(images)["object"]) if seen == args.target]
    print(f"{len(there)} of {len(images)} pictures show {args.target}, and are edited")
    images, styles, seeds = [images[i] for i in there], [styles[i] for i in there], [seeds[i] for i in there]
    prompts = [f"a {args.target if args.named else 'picture'} in {s} style" for s in styles]
    pipeline = PIPELINES[args.model]
    for name, edit in [("untouched", None), *((f"{p.parent.name}", Edit.load(p)) for p in args.edit)]:
        for how in args.strength or (0.2, 0.35):
            if edit is None:
                drawn = edited(family, pipeline, images, prompts, seeds, how)
            else:
                with edit.apply(family):
                    drawn = edited(family, pipeline, images, prompts, seeds, how)
            seen = judge.verdicts(drawn)
            still = sum(label == args.target for label in seen["object"])
            asked = sum(label == style for label, style in zip(seen["style"], styles, strict=True))
            print(f"{name:>20} strength {how:g}: target in {still} of {len(drawn)}, style in {asked}", flush=True)


if __name__ == "__main__":
    main()
