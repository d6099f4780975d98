"""Train the built-in models stage by stage and assemble the files that ship with the package.

    renders -> autoencoder -> pocket CLIP -> judges -> denoiser -> a `StableDiffusionPipeline` folder

Each stage keeps checkpoints under `work`; calling again resumes where the last call stopped.
"""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderDC, AutoencoderKL
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from excise.canvas import autoencoder, clip, data, denoiser, flux, gemma, judging, qwen, sana, sd, sdxl, t5, zimage
from excise.canvas.loop import Session
from excise.families.flux import Flux
from excise.families.load import load, quiet
from excise.families.pipeline import PipelineFamily
from excise.families.sana import Sana
from excise.families.sd import StableDiffusion
from excise.families.sdxl import StableDiffusionXL
from excise.families.zimage import ZImage
from excise.support.files import write_json


@dataclass(frozen=True)
class Steps:
    """Optimiser steps of each stage; the defaults made the shipped weights."""

    autoencoder: int = 2400
    clip: int = 1200
    states: int = 600
    judge: int = 1500
    denoiser: int = 3600
    second_clip: int = 1000
    denoiser_sdxl: int = 2400
    denoiser_sana: int = 17_000
    denoiser_flux: int = 9_000
    denoiser_zimage: int = 8_000

    def of(self, model: str) -> int:
        """Steps of the denoiser of a built-in model."""
        return int(getattr(self, DENOISERS[model]))


@dataclass(frozen=True)
class Plan:
    """Training of a denoiser: learning rate, images in a step, and names of matrices that Muon updates."""

    lr: float = 1e-3
    batch: int = 64
    orthogonal: str = ""


# The maps behind every shift, scale and gate, and the last one.
_GATES = re.compile(
    r".*\bnorm\d?(_context)?\.linear|.*adaLN_modulation\.\d|norm_out\.linear|proj_out|all_final_layer\..*\.linear"
)

# The matrices of blocks that are not behind a shift, scale or gate.
_MATRICES = r".*(blocks|layers|refiner)\.\d+\.(?!.*(norm|adaLN)).*"

TEXT: dict[str, Any] = {"gemma": gemma, "t5": t5, "qwen": qwen}
DENOISERS = {
    "canvas-sd": "denoiser",
    "canvas-sdxl": "denoiser_sdxl",
    "canvas-sana": "denoiser_sana",
    "canvas-flux": "denoiser_flux",
    "canvas-zimage": "denoiser_zimage",
}
"""By built-in model, the field of `Steps` for its denoiser."""
PLANS = {
    "canvas-sd": Plan(),
    "canvas-sdxl": Plan(lr=5e-4),
    "canvas-sana": Plan(lr=1.4e-3, batch=32),
    "canvas-flux": Plan(batch=32, orthogonal=_MATRICES),
    "canvas-zimage": Plan(batch=32, orthogonal=_MATRICES),
}


def train_world(session: Session, out: Path, steps: Steps) -> None:
    """Train every part of `canvas-sd` that is not finished yet, and both judges, and write the weights.

    Args:
        session: where and how to train; its seed is that of the denoiser, other parts have fixed seeds.
        out: receives `canvas-sd/`, `judge-*.safetensors`, `image-tower.safetensors` and `training.json`.
        steps: optimiser steps of each stage.
    """
    work, pool = session.work, data.training_pool(session.work)
    vae = train_autoencoder(pool, session, steps.autoencoder)
    text, tokenizer = train_text(pool, session, steps.clip)
    for which in judging.SEEDS:
        train_judge(which, session, steps.judge)
    torch.manual_seed(session.seed)
    family = StableDiffusion(sd.pipeline(vae, text, tokenizer))
    train_denoiser(family, session, steps.of("canvas-sd"), (), PLANS["canvas-sd"])
    assemble(family, out / "canvas-sd")
    for name in [*(f"judge-{w}" for w in judging.SEEDS), "image-tower"]:
        save_file(load_file(work / f"{name}.safetensors"), out / f"{name}.safetensors")
    (out / "training.json").write_text((work / "training.json").read_text())


def train_model(model: str, session: Session, out: Path, steps: Steps) -> None:
    """Train whatever is not finished yet of a built-in model, and write its folder to `out`.

    Args:
        model: a name of `DENOISERS`; "canvas-sd" brings the judges, and the others begin with its parts.
        session, out, steps: as `train_world` takes them.
    """
    parts = {
        "canvas-sd": train_world,
        "canvas-sdxl": train_sdxl,
        "canvas-sana": train_sana,
        "canvas-flux": train_flux,
        "canvas-zimage": train_zimage,
    }
    parts[model](session, out, steps)


def train_oracle(
    model: str, session: Session, out: Path, steps: Steps, *, without: Collection[str], start: str | None
) -> None:
    """Train an oracle: a denoiser that never sees some concepts, with the autoencoder and text encoders of `model`.

    Budget and data are those of `model`, without these concepts; a good erasure comes close to the oracle.

    Args:
        model: a name of `DENOISERS`.
        session: where and how to train.
        out: receives the pipeline's folder.
        steps: optimiser steps of each stage.
        without: the concepts.
        start: for "canvas-sdxl", an oracle of "canvas-sd" without the same concepts, whose denoiser initialises this
            one as that of `canvas-sd` initialises `canvas-sdxl`; None starts from random weights.
    """
    shipped = load(model, device=session.device, dtype="float32").pipe
    torch.manual_seed(session.seed)
    family = _untrained(model, shipped)
    if start is not None:
        sdxl.start_from(family.denoiser, load(start, device=session.device, dtype="float32").pipe.unet)
    train_denoiser(family, session, steps.of(model), without, PLANS[model], started=start is not None)
    assemble(family, out / model)


def _untrained(model: str, shipped: Any) -> PipelineFamily:
    """A built-in model with its trained autoencoder and text encoders, and an untrained denoiser."""
    parts = (shipped.vae, shipped.text_encoder, shipped.tokenizer)
    if model == "canvas-sd":
        return StableDiffusion(sd.pipeline(*parts))
    if model == "canvas-sdxl":
        return StableDiffusionXL(sdxl.pipeline(*parts[:2], shipped.text_encoder_2, shipped.tokenizer))
    if model == "canvas-sana":
        return Sana(sana.pipeline(*parts))
    family: PipelineFamily
    if model == "canvas-flux":
        family = Flux(flux.pipeline(*parts, shipped.text_encoder_2, shipped.tokenizer_2))
    else:
        family = ZImage(zimage.pipeline(*parts))
    gate_shut(family.denoiser)
    return family


def train_sdxl(session: Session, out: Path, steps: Steps) -> None:
    """Train the second text encoder and the denoiser of `canvas-sdxl`, and write `canvas-sdxl/` to `out`.

    Its autoencoder and first text encoder are those of `canvas-sd`, whose denoiser initialises its own.
    """
    first = load("canvas-sd", device=session.device, dtype="float32").pipe
    second = train_second_text(data.training_pool(session.work), first.tokenizer, session, steps.second_clip)
    torch.manual_seed(session.seed)
    family = StableDiffusionXL(sdxl.pipeline(first.vae, first.text_encoder, second, first.tokenizer))
    sdxl.start_from(family.denoiser, first.unet)
    train_denoiser(family, session, steps.of("canvas-sdxl"), (), PLANS["canvas-sdxl"])
    assemble(family, out / "canvas-sdxl")


def train_sana(session: Session, out: Path, steps: Steps) -> None:
    """Train all parts of `canvas-sana`, which shares only data with the others, and write `canvas-sana/` to `out`."""
    pool = data.training_pool(session.work)
    vae = train_deep_autoencoder(pool, session, steps.autoencoder)
    text, tokenizer = train_states("gemma", pool, session, steps.clip)
    torch.manual_seed(session.seed)
    family = Sana(sana.pipeline(vae, text, tokenizer))
    train_denoiser(family, session, steps.of("canvas-sana"), (), PLANS["canvas-sana"])
    assemble(family, out / "canvas-sana")


def train_flux(session: Session, out: Path, steps: Steps) -> None:
    """Train the second text encoder and the denoiser of `canvas-flux`, and write `canvas-flux/` to `out`.

    Its autoencoder and first text encoder are those of `canvas-sdxl`, whose second text encoder that is.
    """
    pool = data.training_pool(session.work)
    sdxl_pipe = load("canvas-sdxl", device=session.device, dtype="float32").pipe
    text, pieces = train_states("t5", pool, session, steps.states)
    torch.manual_seed(session.seed)
    first = flux.tower(sdxl_pipe.text_encoder_2)
    family = Flux(flux.pipeline(sdxl_pipe.vae, first, sdxl_pipe.tokenizer, text, pieces))
    gate_shut(family.denoiser)
    train_denoiser(family, session, steps.of("canvas-flux"), (), PLANS["canvas-flux"])
    assemble(family, out / "canvas-flux")


def train_zimage(session: Session, out: Path, steps: Steps) -> None:
    """Train the text encoder and the denoiser of `canvas-zimage`, and write `canvas-zimage/` to `out`.

    Its autoencoder is that of `canvas-sd`.
    """
    pool = data.training_pool(session.work)
    vae = load("canvas-sd", device=session.device, dtype="float32").pipe.vae
    text, tokenizer = train_states("qwen", pool, session, steps.states)
    torch.manual_seed(session.seed)
    family = ZImage(zimage.pipeline(vae, text, tokenizer))
    gate_shut(family.denoiser)
    train_denoiser(family, session, steps.of("canvas-zimage"), (), PLANS["canvas-zimage"])
    assemble(family, out / "canvas-zimage")


@torch.no_grad()
def gate_shut(transformer: nn.Module) -> None:
    """Start every block of a transformer as the identity and its output at zero (adaLN-Zero, arXiv 2212.09748)."""
    for name, module in transformer.named_modules():
        if isinstance(module, nn.Linear) and _GATES.fullmatch(name):
            for parameter in module.parameters():
                parameter.zero_()


def train_autoencoder(pool: data.Pool, session: Session, steps: int) -> AutoencoderKL:
    """Return the autoencoder of `canvas-sd`, trained unless `session.work` has it."""
    folder = session.work / "vae"
    if not folder.exists():
        vae, seconds = autoencoder.train_autoencoder(pool, replace(session, seed=0), steps)
        _note(session.work, "autoencoder", steps, seconds, vae)
        vae.save_pretrained(folder)
    with quiet():
        return AutoencoderKL.from_pretrained(folder).to(session.device)


def train_text(pool: data.Pool, session: Session, steps: int) -> tuple[CLIPTextModel, CLIPTokenizer]:
    """Return the text encoder and tokenizer of `canvas-sd`, trained (with the image tower) unless in `session.work`."""
    work, folder = session.work, session.work / "text"
    if not folder.exists():
        tokenizer = clip.build_tokenizer()
        model, seconds = clip.train_clip(pool, tokenizer, clip.build_text_model, replace(session, seed=0), steps)
        _note(work, "clip", steps, seconds, model)
        tokenizer.save_pretrained(work / "tokenizer")
        tower = {k: v for k, v in model.state_dict().items() if not k.startswith("text.")}
        save_file(_half(tower), work / "image-tower.safetensors")
        model.text.save_pretrained(folder)
    with quiet():
        text = CLIPTextModel.from_pretrained(folder).to(session.device)
        return text, CLIPTokenizer.from_pretrained(work / "tokenizer")


def train_second_text(
    pool: data.Pool, tokenizer: CLIPTokenizer, session: Session, steps: int
) -> CLIPTextModelWithProjection:
    """Return the second text encoder of `canvas-sdxl`, trained unless `session.work` has it."""
    folder = session.work / "text-2"
    if not folder.exists():
        build = partial(clip.build_projected_text_model, width=sdxl.SECOND_WIDTH)
        own = replace(session, work=session.work / "clip-2", seed=1)
        model, seconds = clip.train_clip(pool, tokenizer, build, own, steps)
        _note(session.work, "second clip", steps, seconds, model)
        model.text.save_pretrained(folder)
    with quiet():
        text = CLIPTextModelWithProjection.from_pretrained(folder).to(session.device)
        return text.eval().requires_grad_(False)


def train_judge(which: str, session: Session, steps: int) -> None:
    """Train judge "a" or "b" into `session.work` unless it is there."""
    path = session.work / f"judge-{which}.safetensors"
    if not path.exists():
        network, seconds = judging.train_judge(which, session, steps)
        _note(session.work, f"judge-{which}", steps, seconds, network)
        save_file(_half(network.state_dict()), path)


def train_deep_autoencoder(pool: data.Pool, session: Session, steps: int) -> AutoencoderDC:
    """Return the autoencoder of `canvas-sana`, trained unless `session.work` has it."""
    folder = session.work / "vae-dc"
    if not folder.exists():
        torch.manual_seed(0)
        vae = sana.autoencoder()
        seconds = autoencoder.train_deep(vae, pool, replace(session, seed=0), steps)
        _note(session.work, "autoencoder-dc", steps, seconds, vae)
        vae.save_pretrained(folder)
    with quiet():
        return AutoencoderDC.from_pretrained(folder).to(session.device).requires_grad_(False)


def train_states(which: str, pool: data.Pool, session: Session, steps: int) -> tuple[Any, Any]:
    """Return a text encoder whose token states are read, and its tokenizer; trained unless `session.work` has it.

    Gemma learns with an image tower of its own, as `canvas-sana` shares nothing; the others towards the shipped tower.

    Args:
        which: "gemma", "t5" or "qwen".
        pool: images with their cells, for captions.
        session: where and how to train.
        steps: optimiser steps in total.
    """
    part, seed = TEXT[which], 2 + list(TEXT).index(which)
    folder, tokenizer = session.work / which, part.build_tokenizer()
    if not folder.exists():
        own = replace(session, work=session.work / f"clip-{which}", seed=seed)
        features = None if which == "gemma" else clip.image_features(clip.shipped_image_tower(), pool.images)
        model, seconds = clip.train_clip(pool, tokenizer, part.build_text_model, own, steps, features)
        _note(session.work, which, steps, seconds, model)
        model.text.save_pretrained(folder)
    with quiet():
        text = type(part.build_text_model(tokenizer)).from_pretrained(folder).to(session.device)
        return text.eval().requires_grad_(False), tokenizer


def train_denoiser(
    family: PipelineFamily,
    session: Session,
    steps: int,
    without: Collection[str],
    plan: Plan,
    *,
    started: bool = False,
) -> None:
    """Train the denoiser of a family in place, and note its figures in `training.json`.

    Args:
        family: holds the untrained denoiser.
        session: where and how to train.
        steps: optimiser steps in total.
        without: concepts that it never sees.
        plan: learning rate and batch size.
        started: whether its weights were initialised from another model; the checkpoint folder's name depends on it.
    """
    work, pool = session.work, data.training_pool(session.work, without)
    family_name = "" if family.name == "sd" else f"-{family.name}"
    vae = "-dc" if family.name == "sana" else ""
    latents = _latents(family.pipe.vae, pool, work / f"latents{vae}-{'-'.join(sorted(without)) or 'all'}.safetensors")
    parts = [f"denoiser{family_name}", str(session.seed), *sorted(without), *(["started"] if started else [])]
    own = replace(session, work=work / "-".join(parts).replace(" ", "_"))
    seconds = denoiser.train_denoiser(family, pool, latents, own, steps, plan.lr, plan.batch, plan.orthogonal)
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
