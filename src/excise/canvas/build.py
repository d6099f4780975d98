"""Train the whole built-in world, stage by stage, and assemble the files that ship.

    renders -> autoencoder -> pocket CLIP -> judges -> denoiser -> a `StableDiffusionPipeline` folder

Each stage keeps checkpoints under `work`; calling again continues where the last call stopped.
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
    """How a denoiser is trained: learning rate, and pictures in a step."""

    lr: float = 1e-3
    batch: int = 64


SD, SDXL, SANA = Plan(), Plan(lr=5e-4), Plan(lr=1.4e-3, batch=32)


def train_world(work: Path, out: Path, steps: Steps, *, seed: int, device: str, report: Report) -> None:
    """Train every part that is not finished yet and write the weights to `out`.

    Args:
        work: checkpoints, caches and logs.
        out: receives `canvas-sd/`, `judge-*.safetensors`, `image-tower.safetensors` and `training.json`.
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
    """Train a denoiser that never sees `without`, beside the autoencoder and the text encoders that ship with `model`.

    What an erasure should come close to: the same model, budget and data, less what is to be forgotten.

    Args:
        start: of `canvas-sdxl`, an oracle of `canvas-sd` without the same concepts, whose denoiser it begins with as
            the model that ships begins with that of `canvas-sd`; None begins with nothing.
    """
    own = load(model, device=device, dtype="float32").pipe
    torch.manual_seed(seed)
    family: PipelineFamily
    if model == "canvas-sana":
        family = Sana(sana.pipeline(own.vae, own.text_encoder, own.tokenizer))
        count, plan = steps.denoiser_sana, SANA
    elif model == "canvas-sdxl":
        family = StableDiffusionXL(sdxl.pipeline(own.vae, own.text_encoder, own.text_encoder_2, own.tokenizer))
        count, plan = steps.denoiser_sdxl, SDXL
        if start is not None:
            sdxl.start_from(family.denoiser, load(start, device=device, dtype="float32").pipe.unet)
    else:
        family = StableDiffusion(sd.pipeline(own.vae, own.text_encoder, own.tokenizer))
        count, plan = steps.denoiser, SD
    train_denoiser(family, work, count, seed, without, device, report, plan, started=start is not None)
    assemble(family, out / model)


def train_sdxl(work: Path, out: Path, steps: Steps, *, seed: int, device: str, report: Report) -> None:
    """Train `canvas-sdxl` beside the autoencoder and the first text encoder of `canvas-sd`, from its denoiser on."""
    own = load("canvas-sd", device=device, dtype="float32").pipe
    second = train_second_text(data.training_pool(work), own.tokenizer, work, steps.second_clip, device, report)
    torch.manual_seed(seed)
    family = StableDiffusionXL(sdxl.pipeline(own.vae, own.text_encoder, second, own.tokenizer))
    sdxl.start_from(family.denoiser, own.unet)
    train_denoiser(family, work, steps.denoiser_sdxl, seed, (), device, report, SDXL)
    assemble(family, out / "canvas-sdxl")


def train_sana(work: Path, out: Path, steps: Steps, *, seed: int, device: str, report: Report) -> None:
    """Train `canvas-sana`, which shares nothing with the others but its data."""
    pool = data.training_pool(work)
    vae = train_deep_autoencoder(pool, work, steps.autoencoder, device, report)
    text, tokenizer = train_gemma(pool, work, steps.clip, device, report)
    torch.manual_seed(seed)
    family = Sana(sana.pipeline(vae, text, tokenizer))
    train_denoiser(family, work, steps.denoiser_sana, seed, (), device, report, SANA)
    assemble(family, out / "canvas-sana")


def train_autoencoder(pool: data.Pool, work: Path, steps: int, device: str, report: Report) -> AutoencoderKL:
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
    folder = work / "text-2"
    if not folder.exists():
        build = partial(clip.build_projected_text_model, width=sdxl.SECOND_WIDTH)
        model, seconds = clip.train_clip(pool, tokenizer, build, work / "clip-2", 1, steps, device, report)
        _note(work, "second clip", steps, seconds, model)
        model.text.save_pretrained(folder)
    with quiet():
        return CLIPTextModelWithProjection.from_pretrained(folder).to(device).eval().requires_grad_(False)


def train_judge(which: str, work: Path, steps: int, device: str, report: Report) -> None:
    path = work / f"judge-{which}.safetensors"
    if not path.exists():
        network, seconds = judging.train_judge(which, work, steps, device, report)
        _note(work, f"judge-{which}", steps, seconds, network)
        save_file(_half(network.state_dict()), path)


def train_deep_autoencoder(pool: data.Pool, work: Path, steps: int, device: str, report: Report) -> AutoencoderDC:
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
    pool, family_name = data.training_pool(work, without), "" if family.name == "sd" else f"-{family.name}"
    vae = "-dc" if family.name == "sana" else ""
    latents = _latents(family.pipe.vae, pool, work / f"latents{vae}-{'-'.join(sorted(without)) or 'all'}.safetensors")
    parts = [f"denoiser{family_name}", str(seed), *sorted(without), *(["started"] if started else [])]
    folder = work / "-".join(parts).replace(" ", "_")
    seconds = denoiser.train_denoiser(family, pool, latents, folder, seed, steps, device, report, plan.lr, plan.batch)
    _note(work, f"denoiser{family_name}", steps, seconds, family.denoiser)


def assemble(family: PipelineFamily, out: Path) -> None:
    """Write the pipeline folder in half precision."""
    family.pipe.to(device="cpu", dtype=torch.float16).save_pretrained(out, safe_serialization=True)
    for config in (out / "model_index.json", *out.glob("*/config.json")):
        _forget_origin(config)
    for config in out.glob("text_encoder*/config.json"):
        _load_in_single_precision(config)


def _forget_origin(config: Path) -> None:
    """Diffusers notes from which folder of this machine a part was loaded."""
    content = json.loads(config.read_text())
    content.pop("_name_or_path", None)
    write_json(config, content)


def _load_in_single_precision(config: Path) -> None:
    """Without a dtype transformers would load the halves as they are, and diffusers the rest in single: they clash."""
    write_json(config, {**json.loads(config.read_text()), "dtype": "float32"})


def _latents(vae: AutoencoderKL | AutoencoderDC, pool: data.Pool, cache: Path) -> Tensor:
    """Scaled latents of the whole pool, half precision."""
    if not cache.exists():
        latents = autoencoder.encode(vae, pool.images) * vae.config.scaling_factor
        save_file({"latents": latents.half().contiguous()}, cache)
    return load_file(cache)["latents"]


def _half(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k: (v.half() if v.is_floating_point() else v).contiguous() for k, v in state.items()}


def _note(work: Path, part: str, steps: int, seconds: float, model: nn.Module) -> None:
    """Add one part's figures to `training.json`."""
    path = work / "training.json"
    notes = json.loads(path.read_text()) if path.exists() else {}
    notes[part] = {
        "steps": steps,
        "seconds": round(seconds),
        "parameters": sum(p.numel() for p in model.parameters()),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}",
    }
    path.write_text(json.dumps(notes, indent=1))
