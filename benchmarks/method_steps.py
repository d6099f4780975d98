"""Compare time and memory of a step of every trained method with a plain LoRA step on the same weights and batch.

    python -m benchmarks.method_steps [--method ace --method spm] [--side 32] [--images 4] [--precision no] [--json]
    python -m benchmarks.method_steps --method eraseanything [--side 16] [--images 1] [--blocks 1]

At Stable Diffusion 1.5's shapes, text encoder included, or FLUX.1's with few blocks, with random weights. The latents
are given: drawing them is sampling, of as many passes as the settings say. Every method trains a LoRA of rank 8 in
its own maps (Receler its erasers), in bfloat16 with the LoRA in float32, or with `--precision no` all in float32, for
processors that emulate bfloat16; the plain step beside it, of the same loop,
is the mean squared error against the noise in the same maps (for Receler, in all maps of attention). A method that
searches for an adversary does so in one inner step. Each runs in a process of its own, so that its memory is its own.
EraseAnything's two levels are steps by turns: its figure is the mean of both.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline

from benchmarks.model_folders import shapes
from benchmarks.training_step import Clock, _plan, _steps, flux_at, now
from excise.concepts.concept import Concept
from excise.families import family_of
from excise.families.base import Family
from excise.methods import METHODS, load_method, settings_of
from excise.methods.trained.eraseanything import EraseAnything, Level, Turns
from excise.methods.trained.eraseanything_config import EraseAnythingConfig
from excise.methods.trained.material import Material, source_of, weights_of
from excise.methods.trained.receler import Adversary, Rounds
from excise.training.adapters import Adapter, Weights
from excise.training.attention import reading_layers
from excise.training.blocks import Batch, Prompts
from excise.training.bottlenecks import Bottlenecks
from excise.training.loop import Step, Trainer
from excise.training.losses import mse
from excise.training.problem import TrainingProblem

RANK, KEPT = 8, "a photo of a tree"
INNER = {"receler": {"adversary_steps": 1}, "advunlearn": {"attack_steps": 1, "warmup_steps": 0}}
OTHERS = {
    "surgun",
    "slug",
    "eraseanything",
    "zerase",
}  # SurgUn: benchmarks.training_step; SLUG has no loop; transformers'
NAMES = sorted(name for name, r in METHODS.records().items() if r.shape == "trained" and name not in OTHERS)


@dataclass(frozen=True)
class Given:
    """A source of one batch that is there already."""

    made: Batch

    def batch(self, generator: torch.Generator) -> Batch:
        """The batch."""
        return self.made


def stable_diffusion(side: int, dtype: torch.dtype) -> Family:
    """Stable Diffusion 1.5 with random weights, with its text encoder and a tokenizer of its kind."""
    torch.manual_seed(0)
    shape = shapes()["sd15"]
    unet, encoder = (shape.parts[name].make().to(dtype) for name in ("unet", "text_encoder"))
    unet.register_to_config(sample_size=side)  # type: ignore[operator]
    pipe = StableDiffusionPipeline(
        AutoencoderKL(block_out_channels=[32], norm_num_groups=32, latent_channels=4),
        encoder,
        shape.tokenizers["tokenizer"](),
        unet,
        _scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    for part in (unet, encoder):
        part.requires_grad_(False)
    return family_of(pipe)


def _scheduler() -> Any:
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, steps_offset=1
    )


def of_stable_diffusion(name: str, plain: bool, options: Any) -> tuple[Weights, Callable[[Weights], Step]]:
    """What a method trains at Stable Diffusion's shapes, and its step, or the plain one in its place."""
    family, n = (
        stable_diffusion(options.side, torch.bfloat16 if options.precision == "bf16" else torch.float32),
        options.images,
    )
    concept = Concept("cat", anchor="dog")
    problem = TrainingProblem(family, [concept], {"object": ["a photo of a {}"]}, retain=[KEPT])
    settings = {
        "batch": n,
        "precision": options.precision,
        "weights": "lora",
        "mask": "none",
        "ema": 0.0,
        **INNER.get(name, {}),
    }
    method: Any = load_method(name)
    config: Any = settings_of(name)(**settings)
    fixed = replace_settings(config, by="images", pictures=n)
    erasers = name == "receler"
    paths = [m.path for m in family.maps("attention")] if erasers else method.targets(family, config)
    weights = weights_of(problem, replace_settings(config, rank=RANK), paths)
    if erasers and not plain:
        weights = Bottlenecks(family, reading_layers(family), config.rank, 0)
    latents = torch.randn(n, *family.latent_shape)
    material = Material([latents], latents if config.retain_on != "latents" else None, [KEPT] * n)

    def step_of(attached: Any) -> Step:
        source = source_of(problem, fixed, attached, material, located=True)
        made = Given(replace(source.batch(torch.Generator().manual_seed(0)), progress=0.5))
        if plain:
            return lambda generator: {"loss": mse(made.made.student(made.made.concept), made.made.truth())}
        if erasers:
            return Rounds(attached, made, [Adversary(config.tokens, config.adversary_lr)], config)
        step: Step = method.step(problem, config, attached, made)
        return step

    return weights, step_of


def replace_settings(config: Any, **changes: Any) -> Any:
    """A copy of settings with some of them changed."""
    return type(config)(**{**config.model_dump(), **changes})


def of_flux(name: str, plain: bool, options: Any) -> tuple[Weights, Callable[[Weights], Step]]:
    """The same for EraseAnything at FLUX.1's shapes, with few blocks and with random text states."""
    family, conditions = flux_at(options.side, options.blocks)
    method, n = EraseAnything(), options.images
    config = EraseAnythingConfig(batch=n, precision=options.precision, rank=RANK)
    some, words = torch.zeros(n, dtype=torch.long), torch.zeros(1, 512, dtype=torch.bool)
    words[:, 3:5] = True

    def step_of(attached: Weights) -> Step:
        concept, anchor, empty = (Prompts(conditions(1), words=words)[some] for _ in range(3))
        latents, t = torch.randn(n, *family.latent_shape), torch.full((n,), 500.0)
        batch = Batch(attached, latents, t, concept, anchor, empty, true=torch.randn_like(latents))
        if plain:
            return lambda generator: {"loss": mse(batch.student(concept), batch.truth())}
        others = Prompts(conditions(config.unrelated), words=words.expand(config.unrelated, -1))
        made: Any = Given(batch)
        level = Level(made, others, 1, torch.randn(4, *family.latent_shape), Prompts(conditions(4)))
        return method.steps([level], Turns(1), config)

    return Adapter(family, method.targets(family, config), RANK, 0), step_of


def measure(name: str, plain: bool, options: Any) -> dict[str, Any]:
    """Measure one method, or the plain step in its maps: seconds a step, without the first two, and peak memory."""
    make = of_flux if name == "eraseanything" else of_stable_diffusion
    weights, step_of = make(name, plain, options)
    times: list[Clock] = []
    with weights:
        step = step_of(weights)
        times.append(now())
        plan = replace(
            _plan(options), steps=options.steps + 2, save_every=options.steps + 2, precision=options.precision
        )
        Trainer(weights, plan, seed=0).fit(step, lambda *_: times.append(now()))
    steps = _steps(times)[2:]
    return {
        "method": name,
        "plain": plain,
        "seconds": round(sum(s[0] for s in steps) / len(steps), 3),
        "cpu": round(sum(s[1] for s in steps) / len(steps), 3),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "latents": options.side,
        "images": options.images,
        "precision": options.precision,
        "threads": torch.get_num_threads(),
    }


def _own_process(name: str, plain: bool, options: Any) -> dict[str, Any]:
    knobs = [
        p for k in ("side", "images", "steps", "blocks", "precision") for p in (f"--{k}", str(getattr(options, k)))
    ]
    which = ["--only", "plain" if plain else "method", "--method", name]
    command = [sys.executable, "-m", "benchmarks.method_steps", *knobs, *which]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return row


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--method", action="append", choices=[*NAMES, "eraseanything"], help="by default all on SD1.5")
    parser.add_argument("--side", type=int, default=32, help="side of the latents")
    parser.add_argument("--images", type=int, default=4, help="latents in a step")
    parser.add_argument("--steps", type=int, default=4, help="timed steps, after two that are not; an even number")
    parser.add_argument("--precision", default="bf16", choices=["bf16", "no"], help="of the passes")
    parser.add_argument("--blocks", type=int, default=1, help="of FLUX.1: with two streams; twice as many with one")
    parser.add_argument("--only", choices=["method", "plain"], help="measure this one, in this process")
    parser.add_argument("--json", action="store_true", help="print lines of JSON")
    options = parser.parse_args(arguments)
    names = options.method or NAMES
    if options.only:
        print(json.dumps(measure(names[0], options.only == "plain", options)))
        return
    if not options.json:
        print("| method | seconds a step | relative to a plain step: time | CPU | memory |\n|---|---|---|---|---|")
    for name in names:
        own, plain = (_own_process(name, which, options) for which in (False, True))
        ratios = {key: round(own[key] / plain[key], 2) for key in ("seconds", "cpu", "peak_mb")}
        if options.json:
            print(json.dumps({**own, "relative": ratios}), flush=True)
        else:
            cells = [name, f"{own['seconds']:.2f}", *(f"{r:.2f}" for r in ratios.values())]
            print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
