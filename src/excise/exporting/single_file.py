"""The whole model with the edit inside as one file of the original layout, which most programs take as a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from diffusers.loaders.single_file_utils import (
    convert_ldm_clip_checkpoint,
    convert_ldm_unet_checkpoint,
    convert_open_clip_checkpoint,
)
from safetensors.torch import load_file, save_file
from torch import Tensor

from excise.edits.apply import alone
from excise.edits.edit import Edit
from excise.errors import ModelError, WrongBaseError
from excise.exporting.lora import parted
from excise.exporting.record import about, architecture
from excise.families.base import Family
from excise.families.networks import as_saved, bare, parameters
from excise.families.original_names import is_fused, open_clip, unet_name, vae_name
from excise.support.files import write_atomically

NAME = "excise_model.safetensors"
UNET, VAE = "model.diffusion_model.", "first_stage_model."
# Where each text encoder lies, and whether in the layout of OpenCLIP.
ENCODERS = {
    "sd": {"text_encoder": ("cond_stage_model.transformer.text_model.", False)},
    "sd2": {"text_encoder": ("cond_stage_model.model.", True)},
    "sdxl": {
        "text_encoder": ("conditioner.embedders.0.transformer.text_model.", False),
        "text_encoder_2": ("conditioner.embedders.1.model.", True),
    },
}
CUT = 23  # layers that diffusers keeps of the 24 in the text encoder of Stable Diffusion 2


def check(family: Family) -> None:
    """Refuse a model without an original layout.

    Raises:
        WrongBaseError: it is of another family than Stable Diffusion.
        ModelError: its autoencoder is of another kind than the layout has names for.
    """
    if family.name not in ("sd", "sdxl"):
        raise WrongBaseError(
            f"the family '{family.name}' has no single-file layout here; use --format merged, or diffusers-lora."
        )
    vae = bare(family.pipe.vae)
    if not isinstance(vae, AutoencoderKL):
        raise ModelError(
            f"the pipeline's vae is {type(vae).__name__}, for which the original layout has no names; expected "
            "AutoencoderKL: put the model's own back, or use --format merged."
        )
    for name in parameters(family.denoiser):
        if not is_fused(name):
            unet_name(name, family.denoiser.config)  # type: ignore[arg-type]


def write(
    edit: Edit, family: Family, weights: Mapping[str, Tensor], folder: Path
) -> tuple[Path, Callable[[str], Tensor]]:
    """Write the file; returns it and how it differs from the base at a path, read back by diffusers' own converter."""
    path = folder / NAME
    with alone(edit, family), as_saved(family.pipe):
        state = original_state(family)
    prediction = {"modelspec.prediction_type": "v"} if family.prediction == "v_prediction" else {}
    metadata = {"format": "pt", **about(edit, architecture(family).spec), **prediction}
    write_atomically(path, lambda p: save_file(state, p, metadata=metadata))
    written = _read(path, family)

    def change(place: str) -> Tensor:
        part, rest = parted(place, family)
        found = written[part]
        return found.get(f"{rest}.weight", found.get(rest)).float() - weights[place].float().cpu()  # type: ignore[union-attr]

    return path, change


@torch.no_grad()
def original_state(family: Family) -> dict[str, Tensor]:
    """Every weight of a pipeline under its original name, on the CPU, in the precision it is loaded in."""
    pipe: Any = family.pipe
    config = family.denoiser.config
    state = {
        UNET + unet_name(name, config): t  # type: ignore[arg-type]
        for name, t in bare(family.denoiser).state_dict().items()
    }
    for name, t in bare(pipe.vae).state_dict().items():
        theirs = vae_name(name, len(pipe.vae.config.block_out_channels))
        state[VAE + theirs] = t[:, :, None, None] if "attn_1" in theirs and t.ndim == 2 else t
    kind = architecture(family).name
    for encoder, (prefix, opened) in ENCODERS[kind].items():
        whole = {n.removeprefix("text_model."): t for n, t in bare(getattr(pipe, encoder)).state_dict().items()}
        whole = {n: t for n, t in whole.items() if not n.endswith("position_ids")}
        if opened:
            whole = open_clip(with_last_layer(whole) if kind == "sd2" else whole)
        state |= {prefix + name: t for name, t in whole.items()}
    if kind == "sdxl" and family.prediction == "v_prediction":
        state["v_pred"] = torch.tensor([])  # by which other programs know it
    return {name: t.detach().cpu().contiguous() for name, t in state.items()}


def with_last_layer(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """With the last layer of OpenCLIP's, which nothing reads and some readers ask for, as a copy of the one before."""
    last = f"encoder.layers.{CUT - 1}."
    copies = {n.replace(last, f"encoder.layers.{CUT}."): t.clone() for n, t in state.items() if n.startswith(last)}
    return {**state, **copies} if not any(n.startswith(f"encoder.layers.{CUT}.") for n in state) else dict(state)


def _read(path: Path, family: Family) -> dict[str, dict[str, Tensor]]:
    """The parts of a written file under diffusers' names, by diffusers' own converters."""
    state = load_file(path)
    config: Any = dict(family.denoiser.config)  # type: ignore[arg-type]
    found = {family.denoiser_name: dict(convert_ldm_unet_checkpoint(dict(state), config))}
    for encoder, (prefix, opened) in ENCODERS[architecture(family).name].items():
        own = {n: t for n, t in state.items() if n.startswith(prefix)}
        converted = (
            convert_open_clip_checkpoint(family.text_encoders[encoder], own, prefix)
            if opened
            else convert_ldm_clip_checkpoint(own)
        )
        found[encoder] = {n.removeprefix("text_model."): t for n, t in converted.items()}
    return found
