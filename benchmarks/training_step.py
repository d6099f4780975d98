"""Compare time and memory of a SurgUn step with a plain LoRA fine-tuning step at the shapes of real models.

    python -m benchmarks.training_step --shape sd15|sdxl|sana [--side 32] [--images 4] [--steps 3] [--json]

Weights, latents and text states are random; the loop is timed: forward, backward, clipping, AdamW. The plain step is
that of diffusers' examples: `add_adapter`, noise, mean squared error. All variants train LoRAs of the same rank, in
bfloat16 with the LoRA in float32, on the same number of images a step (for SurgUn half targets, half distractors), each
in a separate process so that its memory is its own; on a CPU at a reduced resolution (`--side`, of the latents).

Variants: `plain` and `surgun` train all projections of all attention layers; `plain-kv` and `confined` train the keys
and values of cross-attention.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import (
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    SanaTransformer2DModel,
    UNet2DConditionModel,
)
from peft import LoraConfig
from torch import Tensor, nn

from benchmarks.model_folders import SANA_DENOISER, SD15_DENOISER, SDXL_DENOISER
from excise.families.base import Condition
from excise.families.noising import Noising, noising
from excise.families.pipeline import PipelineFamily
from excise.families.sana import Sana
from excise.families.sd import StableDiffusion
from excise.families.sdxl import StableDiffusionXL
from excise.methods.trained.surgun.competition import Competition
from excise.methods.trained.surgun.config import SurgUnConfig
from excise.methods.trained.surgun.objective import step_of
from excise.methods.trained.surgun.slots import Slots
from excise.training.adapters import Adapter, choose_maps
from excise.training.loop import Plan, Trainer

RANK = 8
GENERATOR = torch.Generator().manual_seed(0)
COMPARED = {"surgun": "plain", "confined": "plain-kv"}


def family_at(shape: str, side: int) -> tuple[PipelineFamily, Callable[[int], Condition]]:
    """Return a family with random weights at the shape of a real model, and a function of n to random conditions."""
    torch.manual_seed(0)
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    schedule = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    try:
        if shape == "sana":
            flow = DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
            network: nn.Module = SanaTransformer2DModel(**{**SANA_DENOISER, "sample_size": side})
            family: PipelineFamily = _bare(Sana, SimpleNamespace(transformer=network, scheduler=flow))
        else:
            network = UNet2DConditionModel(
                **{**(SD15_DENOISER if shape == "sd15" else SDXL_DENOISER), "sample_size": side}
            )
            widths = (768,) if shape == "sd15" else (768, 1280)
            encoders = [SimpleNamespace(config=SimpleNamespace(hidden_size=w)) for w in widths]
            pipe = SimpleNamespace(
                unet=network,
                scheduler=schedule,
                vae_scale_factor=8,
                text_encoder=encoders[0],
                text_encoder_2=encoders[-1],
            )
            family = _bare(StableDiffusion if shape == "sd15" else StableDiffusionXL, pipe)
    finally:
        torch.set_default_dtype(dtype)
    network.requires_grad_(False)

    def conditions(n: int) -> Condition:
        if shape == "sana":
            mask = torch.ones(n, 300, dtype=torch.long)
            return Condition({"encoder_hidden_states": torch.randn(n, 300, 2304), "encoder_attention_mask": mask})
        states = {"encoder_hidden_states": torch.randn(n, 77, family.text_width)}
        return Condition(states | ({"text_embeds": torch.randn(n, 1280)} if shape == "sdxl" else {}))

    return family, conditions


def _bare(kind: type[PipelineFamily], pipe: Any) -> PipelineFamily:
    """Create a family around parts of a pipeline, without the set-up of text encoders."""
    family = kind.__new__(kind)
    family.pipe = pipe
    return family


def seconds_of_surgun(family: PipelineFamily, conditions: Callable[[int], Condition], options: Any) -> list[float]:
    """Return the seconds of each step of the method's loop."""
    confined, half = options.variant == "confined", options.images // 2
    slots, shape = 4, family.latent_shape
    pictures = Slots(
        prompts=[""] * slots,
        condition=conditions(slots),
        own=[],
        target=torch.randn(slots, *shape),
        distractors=torch.randn(2, slots, *shape),
        filled=torch.ones(3, slots, dtype=torch.bool),
        names=["one", "other"],
        seen={},
    )
    config = SurgUnConfig(batch=half, rank=RANK, precision="bf16", confine=confined)
    competition = Competition(pictures, family, noising(family.pipe.scheduler), config.batch)
    maps = choose_maps(family, "cross_kv" if confined else "attention", None)
    spans = {}
    if confined:
        span = torch.linalg.qr(torch.randn(family.text_width, RANK))[0]  # one or two directions on the built-in models
        spans = {m.path: span for m in maps}
    times = [time.perf_counter()]
    with Adapter(family, [m.path for m in maps], RANK, 0, spans) as adapter:
        step = step_of(adapter, [competition], config)
        times[0] = time.perf_counter()
        plan = Plan(steps=options.steps + 1, lr=1e-4, save_every=options.steps + 1, precision="bf16")
        Trainer(adapter, plan, seed=0).fit(step, lambda *_: times.append(time.perf_counter()))
    return [b - a for a, b in pairwise(times)]


def seconds_of_plain(family: PipelineFamily, conditions: Callable[[int], Condition], options: Any) -> list[float]:
    """Return the seconds of each step of plain LoRA fine-tuning, as in diffusers' examples."""
    network, plan, n = family.denoiser, noising(family.pipe.scheduler), options.images
    everywhere = ["to_q", "to_k", "to_v", "to_out.0"]
    layers = r".*attn2\.(to_k|to_v)" if options.variant == "plain-kv" else everywhere
    network.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, init_lora_weights="gaussian", target_modules=layers))
    trained = [p for p in network.parameters() if p.requires_grad]
    for p in trained:
        p.data = p.data.float()
    optimiser = torch.optim.AdamW(trained, lr=1e-4)
    text, clean = conditions(4).to(family.device, torch.bfloat16), torch.randn(8, *family.latent_shape)
    times = [time.perf_counter()]
    for _ in range(options.steps + 1):
        _plain_step(family, plan, clean[torch.randint(8, (n,))], text[torch.randint(4, (n,))], trained, optimiser)
        times.append(time.perf_counter())
    return [b - a for a, b in pairwise(times)]


def _plain_step(
    family: PipelineFamily,
    plan: Noising,
    clean: Tensor,
    condition: Condition,
    trained: list[Tensor],
    optimiser: torch.optim.Optimizer,
) -> None:
    noise, t = torch.randn_like(clean), plan.times(len(clean), generator=GENERATOR)
    with torch.autocast(family.device.type, torch.bfloat16):
        guess = family.predict(plan.add(clean, noise, t), t, condition)
    F.mse_loss(guess, plan.target(clean, noise, t)).backward()
    nn.utils.clip_grad_norm_(trained, 1.0)
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)


def measure(options: Any) -> dict[str, Any]:
    """Measure one variant: median seconds an image, without the first step, and peak memory of the process in MB."""
    family, conditions = family_at(options.shape, options.side)
    work = seconds_of_plain if options.variant.startswith("plain") else seconds_of_surgun
    times = sorted(work(family, conditions, options)[1:])
    return {
        "shape": options.shape,
        "variant": options.variant,
        "parameters": sum(p.numel() for n, p in family.denoiser.named_parameters() if "lora" not in n),
        "seconds_per_image": round(times[len(times) // 2] / options.images, 3),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "latents": options.side,
        "images": options.images,
        "threads": torch.get_num_threads(),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--shape", choices=["sd15", "sdxl", "sana"], default="sd15")
    parser.add_argument("--side", type=int, default=32, help="side of the latents")
    parser.add_argument("--images", type=int, default=4, help="images in a step")
    parser.add_argument("--steps", type=int, default=3, help="timed steps, after one that is not")
    parser.add_argument("--variant", choices=[*COMPARED, *COMPARED.values()], help="measure only this one")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    if options.variant:
        print(json.dumps(measure(options)))
        return
    rows = [_own_process(options, v) for pair in COMPARED.items() for v in pair]
    by_variant = {row["variant"]: row for row in rows}
    for method, plain in COMPARED.items():
        for what in ("seconds_per_image", "peak_mb"):
            by_variant[method][f"{what}_ratio"] = round(by_variant[method][what] / by_variant[plain][what], 3)
    if options.json:
        print(json.dumps(rows, indent=2))
        return
    for row in rows:
        ratios = ""
        if row["variant"] in COMPARED:
            ratios = (
                f"; relative to plain: time x {row['seconds_per_image_ratio']:.2f}, memory x {row['peak_mb_ratio']:.2f}"
            )
        print(f"{row['variant']:9} {row['seconds_per_image']:.2f} s an image, peak {row['peak_mb']} MB{ratios}")


def _own_process(options: Any, variant: str) -> dict[str, Any]:
    knobs = [part for k in ("shape", "side", "images", "steps") for part in (f"--{k}", str(getattr(options, k)))]
    command = [sys.executable, "-m", "benchmarks.training_step", *knobs, "--variant", variant]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return row


if __name__ == "__main__":
    main()
