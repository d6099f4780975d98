"""Compare time and memory of a SurgUn or ESD step with a plain LoRA fine-tuning step at the shapes of real models.

    python -m benchmarks.training_step --shape sd15|sdxl|sana [--side 32] [--images 4] [--steps 3] [--json]
    python -m benchmarks.training_step --shape flux1 [--blocks 1] [--side 16] [--images 1] [--steps 3]

Weights, latents and text states are random; the loop is timed: forward, backward, clipping, AdamW. The plain step is
that of diffusers' examples: `add_adapter`, noise, mean squared error. All variants train LoRAs of the same rank, in
bfloat16 with the LoRA in float32, on the same number of images a step (for SurgUn half targets, half distractors), each
in a separate process so that its memory is its own; on a CPU at a reduced resolution (`--side`, of the latents).

Variants: `plain` and `surgun` train all projections of all attention layers; `plain-kv` and `confined` train the keys
and values of cross-attention. At FLUX.1's shapes, with few of its blocks (as many with two streams, twice as many with
one): `esd` and `plain-esd`, on the maps that ESD trains. An ESD step begins with latents that are given: drawing them
is sampling, of as many passes as its settings say. CPU seconds stand beside wall seconds, for machines that do other
work too.
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
    FlowMatchEulerDiscreteScheduler,
    FluxTransformer2DModel,
    SanaTransformer2DModel,
    UNet2DConditionModel,
)
from peft import LoraConfig
from torch import Tensor, nn

from benchmarks.model_parts import SANA_DENOISER, SD15_DENOISER, SDXL_DENOISER
from excise.families.conditions import Condition
from excise.families.flux import Flux
from excise.families.noising import Noising, noising
from excise.families.pipeline import PipelineFamily
from excise.families.sana import Sana
from excise.families.sd import StableDiffusion
from excise.families.sdxl import StableDiffusionXL
from excise.methods.trained.esd import ESD
from excise.methods.trained.esd_config import ESDConfig
from excise.methods.trained.surgun.competition import Competition
from excise.methods.trained.surgun.config import SurgUnConfig
from excise.methods.trained.surgun.objective import step_of
from excise.methods.trained.surgun.slots import Slots
from excise.training.adapters import Adapter, choose_maps
from excise.training.blocks import Batch, Prompts
from excise.training.loop import Plan, Trainer

RANK = 8
GENERATOR = torch.Generator().manual_seed(0)
COMPARED = {"surgun": "plain", "confined": "plain-kv"}
COMPARED_OF_FLUX = {"esd": "plain-esd"}
LOOPS = {**COMPARED, **COMPARED_OF_FLUX}


def flux_at(side: int, blocks: int) -> tuple[PipelineFamily, Callable[[int], Condition]]:
    """Return FLUX.1 with random weights in bfloat16 and few blocks, and a function of n to random conditions."""
    torch.manual_seed(0)
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        network = FluxTransformer2DModel(num_layers=blocks, num_single_layers=2 * blocks, guidance_embeds=True)
    finally:
        torch.set_default_dtype(dtype)
    network.requires_grad_(False)
    vae = SimpleNamespace(config=SimpleNamespace(sample_size=8 * side, latent_channels=16))
    schedule = FlowMatchEulerDiscreteScheduler(shift=3.0)
    pipe = SimpleNamespace(transformer=network, scheduler=schedule, vae=vae, vae_scale_factor=8, components={})

    def conditions(n: int) -> Condition:
        states = {"encoder_hidden_states": torch.randn(n, 512, 4096), "pooled_projections": torch.randn(n, 768)}
        return Condition(states)

    return _bare(Flux, pipe), conditions


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
            family: PipelineFamily = _bare(Sana, SimpleNamespace(transformer=network, scheduler=flow, components={}))
        else:
            network = UNet2DConditionModel(
                **{**(SD15_DENOISER if shape == "sd15" else SDXL_DENOISER), "sample_size": side}
            )
            widths = (768,) if shape == "sd15" else (768, 1280)
            encoders = [SimpleNamespace(config=SimpleNamespace(hidden_size=w)) for w in widths]
            pipe = SimpleNamespace(
                unet=network,
                scheduler=schedule,
                components={},
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


Clock = tuple[float, float]
"""Wall seconds and CPU seconds."""


def now() -> Clock:
    """Return the time."""
    return time.perf_counter(), time.process_time()


def _steps(times: Sequence[Clock]) -> list[Clock]:
    """Return the seconds of each step."""
    return [(b[0] - a[0], b[1] - a[1]) for a, b in pairwise(times)]


def _plan(options: Any) -> Plan:
    return Plan(steps=options.steps + 1, lr=1e-4, save_every=options.steps + 1, precision="bf16")


def seconds_of_esd(family: PipelineFamily, conditions: Callable[[int], Condition], options: Any) -> list[Clock]:
    """Return the seconds of each step of the method's loop, on latents that are given."""
    method, config, n = ESD(), ESDConfig(batch=options.images, rank=RANK, precision="bf16"), options.images
    some = torch.zeros(n, dtype=torch.long)
    with Adapter(family, method.targets(family, config), RANK, 0) as adapter:
        concept, anchor, empty = (Prompts(conditions(1))[some] for _ in range(3))
        latents, t = torch.randn(n, *family.latent_shape), torch.full((n,), 500.0)
        batch = Batch(adapter, latents, t, concept, anchor, empty)
        times = [now()]
        step = lambda generator: method.losses(batch, config)  # noqa: E731 - a step takes a generator
        Trainer(adapter, _plan(options), seed=0).fit(step, lambda *_: times.append(now()))
    return _steps(times)


def seconds_of_surgun(family: PipelineFamily, conditions: Callable[[int], Condition], options: Any) -> list[Clock]:
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
    times = [now()]
    with Adapter(family, [m.path for m in maps], RANK, 0, spans) as adapter:
        step = step_of(adapter, [competition], config)
        times[0] = now()
        Trainer(adapter, _plan(options), seed=0).fit(step, lambda *_: times.append(now()))
    return _steps(times)


def seconds_of_plain(family: PipelineFamily, conditions: Callable[[int], Condition], options: Any) -> list[Clock]:
    """Return the seconds of each step of plain LoRA fine-tuning, as in diffusers' examples."""
    network, plan, n = family.denoiser, noising(family.pipe.scheduler), options.images
    everywhere = ["to_q", "to_k", "to_v", "to_out.0"]
    layers: list[str] | str = r".*attn2\.(to_k|to_v)" if options.variant == "plain-kv" else everywhere
    if options.variant == "plain-esd":
        layers = ESD().targets(family, ESDConfig())
    network.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, init_lora_weights="gaussian", target_modules=layers))
    trained = [p for p in network.parameters() if p.requires_grad]
    for p in trained:
        p.data = p.data.float()
    optimiser = torch.optim.AdamW(trained, lr=1e-4)
    text, clean = conditions(4).to(family.device, torch.bfloat16), torch.randn(8, *family.latent_shape)
    times = [now()]
    for _ in range(options.steps + 1):
        _plain_step(family, plan, clean[torch.randint(8, (n,))], text[torch.randint(4, (n,))], trained, optimiser)
        times.append(now())
    return _steps(times)


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
    flux = options.shape == "flux1"
    family, conditions = flux_at(options.side, options.blocks) if flux else family_at(options.shape, options.side)
    method = seconds_of_esd if options.variant == "esd" else seconds_of_surgun
    work = seconds_of_plain if options.variant.startswith("plain") else method
    steps = work(family, conditions, options)[1:]
    wall, cpu = (sorted(step[which] for step in steps) for which in (0, 1))
    return {
        "shape": options.shape,
        "variant": options.variant,
        "parameters": sum(p.numel() for n, p in family.denoiser.named_parameters() if "lora" not in n),
        "seconds_per_image": round(wall[len(wall) // 2] / options.images, 3),
        "cpu_per_image": round(cpu[len(cpu) // 2] / options.images, 3),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "latents": options.side,
        "images": options.images,
        "threads": torch.get_num_threads(),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--shape", choices=["sd15", "sdxl", "sana", "flux1"], default="sd15")
    parser.add_argument("--side", type=int, default=32, help="side of the latents")
    parser.add_argument("--images", type=int, default=4, help="images in a step")
    parser.add_argument("--steps", type=int, default=3, help="timed steps, after one that is not")
    parser.add_argument("--variant", choices=[*LOOPS, *LOOPS.values()], help="measure only this one")
    parser.add_argument("--blocks", type=int, default=1, help="of FLUX.1: with two streams; twice as many with one")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    if options.variant:
        print(json.dumps(measure(options)))
        return
    compared = COMPARED_OF_FLUX if options.shape == "flux1" else COMPARED
    rows = [_own_process(options, v) for pair in compared.items() for v in pair]
    by_variant = {row["variant"]: row for row in rows}
    for method, plain in compared.items():
        for what in ("seconds_per_image", "cpu_per_image", "peak_mb"):
            by_variant[method][f"{what}_ratio"] = round(by_variant[method][what] / by_variant[plain][what], 3)
    if options.json:
        print(json.dumps(rows, indent=2))
        return
    for row in rows:
        ratios = ""
        if row["variant"] in compared:
            of = [f"{what} x {row[f'{key}_ratio']:.2f}" for what, key in _RATIOS.items()]
            ratios = f"; relative to plain: {', '.join(of)}"
        spent = f"{row['seconds_per_image']:.2f} s ({row['cpu_per_image']:.2f} s of CPU) an image"
        print(f"{row['variant']:9} {spent}, peak {row['peak_mb']} MB{ratios}")


_RATIOS = {"time": "seconds_per_image", "CPU": "cpu_per_image", "memory": "peak_mb"}


def _own_process(options: Any, variant: str) -> dict[str, Any]:
    knobs = [
        part for k in ("shape", "side", "images", "steps", "blocks") for part in (f"--{k}", str(getattr(options, k)))
    ]
    command = [sys.executable, "-m", "benchmarks.training_step", *knobs, "--variant", variant]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return row


if __name__ == "__main__":
    main()
