"""Train the built-in models stage by stage and assemble the files that ship with the package.

    renders -> autoencoder -> pocket CLIP -> judges -> denoiser -> a `StableDiffusionPipeline` folder

Each stage keeps checkpoints under `work`; calling again resumes where the last call stopped.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from diffusers import AutoencoderDC, AutoencoderKL
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer, Gemma2Model, GemmaTokenizer

from excise.canvas import autoencoder, clip, data, denoiser, gemma, judging, sana, sd, sdxl
from excise.families.load import load, quiet
from excise.families.pipeline import PipelineFamily
from excise.families.sana import Sana
from excise.families.sd import StableDiffusion
from excise.families.sdxl import StableDiffusionXL
from excise.support.files import write_json

Report = Callable[[str], None]


@dataclass(frozen=True)
class Steps:
    """Optimiser steps of each stage; the defaults made the shipped weights."""

    autoencoder: int = 2400
    clip: int = 1200
    judge: int = 1500
    denoiser: int = 3600
    second_clip: int = 1000
    denoiser_sdxl: int = 2400
    denoiser_sana: int = 17_000


@dataclass(frozen=True)
class Plan:
    """Training of a denoiser: learning rate, and images in a step."""

    lr: float = 1e-3
    batch: int = 64


SD, SDXL, SANA = Plan(), Plan(lr=5e-4), Plan(lr=1.4e-3, batch=32)


def train_world(work: Path, out: Path, steps: Steps, *, seed: int, device: str, report: Report) -> None:
    """Train every part of `canvas-sd` that is not finished yet, and both judges, and write the weights.

    Args:
        work: folder of checkpoints, caches and logs.
        out: receives `canvas-sd/`, `judge-*.safetensors`, `image-tower.safetensors` and `training.json`.
        steps: optimiser steps of each stage.
        seed: of the denoiser.
        device: to train on.
        report: receives progress lines.
    """
    pool = data.training_pool(work)
    vae = train_autoencoder(pool, work, steps.autoencoder, device, report)
    text, tokenizer = train_text(pool, work, steps.clip, device, report)
    for which in judging.SEEDS:
        train_judge(which, work, steps.judge, device, report)
    torch.manual_seed(seed)
    family = StableDiffusion(sd.pipeline(vae, text, tokenizer))
    train_denoiser(family, work, steps.denoiser, seed, (), device, report, SD)
    assemble(family, out / "canvas-sd")
    for name in [*(f"judge-{w}" for w in judging.SEEDS), "image-tower"]:
        save_file(load_file(work / f"{name}.safetensors"), out / f"{name}.safetensors")
    (out / "training.json").write_text((work / "training.json").read_text())


def train_oracle(
    model: str,
    work: Path,
    out: Path,
    steps: Steps,
    *,
    seed: int,
    without: Collection[str],
    start: str | None,
    device: str,
    report: Report,
) -> None:
    """Train an oracle: a denoiser that never sees some concepts, with the autoencoder and text encoders of `model`.

    Budget and data are those of `model`, without these concepts; a good erasure comes close to the oracle.

    Args:
        model: "canvas-sd", "canvas-sdxl" or "canvas-sana".
        work: folder of checkpoints, caches and logs.
        out: receives the pipeline's folder.
        steps: optimiser steps of each stage.
        seed: of the denoiser.
        without: the concepts.
        start: for "canvas-sdxl", an oracle of "canvas-sd" without the same concepts, whose denoiser initialises this
            one as that of `canvas-sd` initialises `canvas-sdxl`; None starts from random weights.
        device: to train on.
        report: receives progress lines.
    """
    shipped = load(model, device=device, dtype="float32").pipe
    torch.manual_seed(seed)
    family: PipelineFamily
    if model == "canvas-sana":
        family = Sana(sana.pipeline(shipped.vae, shipped.text_encoder, shipped.tokenizer))
        count, plan = steps.denoiser_sana, SANA
    elif model == "canvas-sdxl":
        family = StableDiffusionXL(
            sdxl.pipeline(shipped.vae, shipped.text_encoder, shipped.text_encoder_2, shipped.tokenizer)
        )
        count, plan = steps.denoiser_sdxl, SDXL
        if start is not None:
            sdxl.start_from(family.denoiser, load(start, device=device, dtype="float32").pipe.unet)
    else:
        family = StableDiffusion(sd.pipeline(shipped.vae, shipped.text_encoder, shipped.tokenizer))
        count, plan = steps.denoiser, SD
    train_denoiser(family, work, count, seed, without, device, report, plan, started=start is not None)
    assemble(family, out / model)


def train_sdxl(work: Path, out: Path, steps: Steps, *, seed: int, device: str, report: Report) -> None:
    """Train the second text encoder and the denoiser of `canvas-sdxl`, and write `canvas-sdxl/` to `out`.

    Its autoencoder and first text encoder are those of `canvas-sd`, whose denoiser initialises its own.
    """
    first = load("canvas-sd", device=device, dtype="float32").pipe
    second = train_second_text(data.training_pool(work), first.tokenizer, work, steps.second_clip, device, report)
    torch.manual_seed(seed)
    family = StableDiffusionXL(sdxl.pipeline(first.vae, first.text_encoder, second, first.tokenizer))
    sdxl.start_from(family.denoiser, first.unet)
    train_denoiser(family, work, steps.denoiser_sdxl, seed, (), device, report, SDXL)
    assemble(family, out / "canvas-sdxl")


def train_sana(work: Path, out: Path, steps: Steps, *, seed: int, device: str, report: Report) -> None:
    """Train all parts of `canvas-sana`, which shares only data with the others, and write `canvas-sana/` to `out`."""
    pool = data.training_pool(work)
    vae = train_deep_autoencoder(pool, work, steps.autoencoder, device, report)
    text, tokenizer = train_gemma(pool, work, steps.clip, device, report)
    torch.manual_seed(seed)
    family = Sana(sana.pipeline(vae, text, tokenizer))
    train_denoiser(family, work, steps.denoiser_sana, seed, (), device, report, SANA)
    assemble(family, out / "canvas-sana")


def train_autoencoder(pool: data.Pool, work: Path, steps: int, device: str, report: Report) -> AutoencoderKL:
    """Return the autoencoder of `canvas-sd`, trained unless `work` has it."""
    folder = work / "vae"
    if not folder.exists():
        vae, seconds = autoencoder.train_autoencoder(pool, work, 0, steps, device, report)
        _note(work, "autoencoder", steps, seconds, vae)
        vae.save_pretrained(folder)
    with quiet():
        return AutoencoderKL.from_pretrained(folder).to(device)


def train_text(
    pool: data.Pool, work: Path, steps: int, device: str, report: Report
) -> tuple[CLIPTextModel, CLIPTokenizer]:
    """Return the text encoder and tokenizer of `canvas-sd`, trained (with the image tower) unless `work` has them."""
    folder = work / "text"
    if not folder.exists():
        tokenizer = clip.build_tokenizer()
        model, seconds = clip.train_clip(pool, tokenizer, clip.build_text_model, work, 0, steps, device, report)
        _note(work, "clip", steps, seconds, model)
        tokenizer.save_pretrained(work / "tokenizer")
        tower = {k: v for k, v in model.state_dict().items() if not k.startswith("text.")}
        save_file(_half(tower), work / "image-tower.safetensors")
        model.text.save_pretrained(folder)
    with quiet():
        return CLIPTextModel.from_pretrained(folder).to(device), CLIPTokenizer.from_pretrained(work / "tokenizer")


def train_second_text(
    pool: data.Pool, tokenizer: CLIPTokenizer, work: Path, steps: int, device: str, report: Report
) -> CLIPTextModelWithProjection:
    """Return the second text encoder of `canvas-sdxl`, trained unless `work` has it."""
    folder = work / "text-2"
    if not folder.exists():
        build = partial(clip.build_projected_text_model, width=sdxl.SECOND_WIDTH)
        model, seconds = clip.train_clip(pool, tokenizer, build, work / "clip-2", 1, steps, device, report)
        _note(work, "second clip", steps, seconds, model)
        model.text.save_pretrained(folder)
    with quiet():
        return CLIPTextModelWithProjection.from_pretrained(folder).to(device).eval().requires_grad_(False)


def train_judge(which: str, work: Path, steps: int, device: str, report: Report) -> None:
    """Train judge "a" or "b" into `work` unless it is there."""
    path = work / f"judge-{which}.safetensors"
    if not path.exists():
        network, seconds = judging.train_judge(which, work, steps, device, report)
        _note(work, f"judge-{which}", steps, seconds, network)
        save_file(_half(network.state_dict()), path)


def train_deep_autoencoder(pool: data.Pool, work: Path, steps: int, device: str, report: Report) -> AutoencoderDC:
    """Return the autoencoder of `canvas-sana`, trained unless `work` has it."""
    folder = work / "vae-dc"
    if not folder.exists():
        torch.manual_seed(0)
        vae = sana.autoencoder()
        seconds = autoencoder.train_deep(vae, pool, work, 0, steps, device, report)
        _note(work, "autoencoder-dc", steps, seconds, vae)
        vae.save_pretrained(folder)
    with quiet():
        return AutoencoderDC.from_pretrained(folder).to(device).requires_grad_(False)


def train_gemma(
    pool: data.Pool, work: Path, steps: int, device: str, report: Report
) -> tuple[Gemma2Model, GemmaTokenizer]:
    """Return the text encoder and tokenizer of `canvas-sana`, trained unless `work` has them."""
    folder, tokenizer = work / "gemma", gemma.build_tokenizer()
    if not folder.exists():
        model, seconds = clip.train_clip(
            pool, tokenizer, gemma.build_text_model, work / "clip-gemma", 2, steps, device, report
        )
        _note(work, "gemma", steps, seconds, model)
        model.text.save_pretrained(folder)
    with quiet():
        return Gemma2Model.from_pretrained(folder).to(device).eval().requires_grad_(False), tokenizer


def train_denoiser(
    family: PipelineFamily,
    work: Path,
    steps: int,
    seed: int,
    without: Collection[str],
    device: str,
    report: Report,
    plan: Plan,
    *,
    started: bool = False,
) -> None:
    """Train the denoiser of a family in place, and note its figures in `training.json`.

    Args:
        without: concepts that it never sees.
        plan: learning rate and batch size.
        started: whether its weights were initialised from another model; the checkpoint folder's name depends on it.
    """
    pool, family_name = data.training_pool(work, without), "" if family.name == "sd" else f"-{family.name}"
    vae = "-dc" if family.name == "sana" else ""
    latents = _latents(family.pipe.vae, pool, work / f"latents{vae}-{'-'.join(sorted(without)) or 'all'}.safetensors")
    parts = [f"denoiser{family_name}", str(seed), *sorted(without), *(["started"] if started else [])]
    folder = work / "-".join(parts).replace(" ", "_")
    seconds = denoiser.train_denoiser(family, pool, latents, folder, seed, steps, device, report, plan.lr, plan.batch)
    _note(work, f"denoiser{family_name}", steps, seconds, family.denoiser)


def assemble(family: PipelineFamily, out: Path) -> None:
    """Write the pipeline folder in half precision, without paths of this machine."""
    family.pipe.to(device="cpu", dtype=torch.float16).save_pretrained(out, safe_serialization=True)
    for config in (out / "model_index.json", *out.glob("*/config.json")):
        _forget_origin(config)
    for config in out.glob("text_encoder*/config.json"):
        _load_in_single_precision(config)


def _forget_origin(config: Path) -> None:
    """Remove the folder that a component was loaded from, which diffusers stores in its configuration."""
    content = json.loads(config.read_text())
    content.pop("_name_or_path", None)
    write_json(config, content)


def _load_in_single_precision(config: Path) -> None:
    """Set float32, without which transformers would load a text encoder in half and diffusers the rest in single."""
    write_json(config, {**json.loads(config.read_text()), "dtype": "float32"})


def _latents(vae: AutoencoderKL | AutoencoderDC, pool: data.Pool, cache: Path) -> Tensor:
    """Return the scaled latents of the whole pool (N, c, h, w) in half precision, from `cache` if it exists."""
    if not cache.exists():
        latents = autoencoder.encode(vae, pool.images) * vae.config.scaling_factor
        save_file({"latents": latents.half().contiguous()}, cache)
    return load_file(cache)["latents"]


def _half(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k: (v.half() if v.is_floating_point() else v).contiguous() for k, v in state.items()}


def _note(work: Path, part: str, steps: int, seconds: float, model: nn.Module) -> None:
    """Add the figures of one part to `training.json`."""
    path = work / "training.json"
    notes = json.loads(path.read_text()) if path.exists() else {}
    notes[part] = {
        "steps": steps,
        "seconds": round(seconds),
        "parameters": sum(p.numel() for p in model.parameters()),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}",
    }
    path.write_text(json.dumps(notes, indent=1))
