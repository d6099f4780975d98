"""Write the whole model, with the edit merged in, as one file of the original layout, which most programs load."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from excise.edits.apply import alone
from excise.edits.edit import Edit
from excise.edits.exports import export_name
from excise.edits.provenance import Evidence
from excise.errors import ModelError, WrongBaseError
from excise.exporting.lora import component_path
from excise.exporting.record import architecture, model_spec
from excise.families.base import Family
from excise.families.networks import as_saved, bare, parameters
from excise.families.original_names import is_fused, open_clip, unet_name, vae_name
from excise.support.files import write_tensors

UNET, VAE = "model.diffusion_model.", "first_stage_model."
# By architecture and text encoder: its prefix, and whether its names are those of OpenCLIP.
ENCODERS = {
    "sd": {"text_encoder": ("cond_stage_model.transformer.text_model.", False)},
    "sd2": {"text_encoder": ("cond_stage_model.model.", True)},
    "sdxl": {
        "text_encoder": ("conditioner.embedders.0.transformer.text_model.", False),
        "text_encoder_2": ("conditioner.embedders.1.model.", True),
    },
}
CUT = 23  # diffusers drops the last of the 24 layers in the text encoder of Stable Diffusion 2


def check(family: Family) -> None:
    """Refuse a model that the original layout cannot represent.

    Raises:
        WrongBaseError: its family is not Stable Diffusion, or a parameter of the denoiser has no original name.
        ModelError: its autoencoder is of a class for which the layout has no names.
    """
    if family.name not in ("sd", "sdxl"):
        raise WrongBaseError(
            f"the family '{family.name}' has no single-file layout here; use --format merged, or diffusers-lora."
        )
    from diffusers import AutoencoderKL

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
    edit: Edit, family: Family, weights: Mapping[str, Tensor], folder: Path, evidence: Evidence
) -> tuple[Path, Callable[[str], Tensor]]:
    """Write the file into `folder`.

    Returns:
        The file, and a function of a path that returns the written weight minus that of the base. The file is read back
        by diffusers' own converter.

    Raises:
        OutputError: the file cannot be written.
    """
    path = folder / export_name("single-file", [c.name for c in edit.record.concepts])
    with alone(edit, family), as_saved(family.pipe):
        state = original_state(family)
    prediction = {"modelspec.prediction_type": "v"} if family.prediction == "v_prediction" else {}
    metadata = {"format": "pt", **model_spec(edit, architecture(family).spec, evidence), **prediction}
    write_tensors(path, state, metadata)
    written = _read(path, family)

    def change(place: str) -> Tensor:
        part, rest = component_path(place, family)
        name = f"{rest}.weight" if f"{rest}.weight" in written[part] else rest
        return written[part][name].float() - weights[place].float().cpu()

    return path, change


@torch.no_grad()
def original_state(family: Family) -> dict[str, Tensor]:
    """Return every weight of a pipeline under its original name, on the CPU, in the dtype that it is loaded in."""
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
    for encoder, (prefix, is_open_clip) in ENCODERS[kind].items():
        whole = {n.removeprefix("text_model."): t for n, t in bare(getattr(pipe, encoder)).state_dict().items()}
        whole = {n: t for n, t in whole.items() if not n.endswith("position_ids")}
        if is_open_clip:
            whole = open_clip(with_last_layer(whole) if kind == "sd2" else whole)
        state |= {prefix + name: t for name, t in whole.items()}
    if kind == "sdxl" and family.prediction == "v_prediction":
        state["v_pred"] = torch.tensor([])  # other programs recognise v-prediction by it
    return {name: t.detach().cpu().contiguous() for name, t in state.items()}


def with_last_layer(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Add the last layer of OpenCLIP's text encoder, if missing, as a copy of the one before.

    Its output is never used, but some readers refuse a file without it.
    """
    last = f"encoder.layers.{CUT - 1}."
    copies = {n.replace(last, f"encoder.layers.{CUT}."): t.clone() for n, t in state.items() if n.startswith(last)}
    return {**state, **copies} if not any(n.startswith(f"encoder.layers.{CUT}.") for n in state) else dict(state)


def _read(path: Path, family: Family) -> dict[str, dict[str, Tensor]]:
    """Read a written file with diffusers' own converters: tensors by component and diffusers' name."""
    from diffusers.loaders.single_file_utils import (
        convert_ldm_clip_checkpoint,
        convert_ldm_unet_checkpoint,
        convert_open_clip_checkpoint,
    )

    state = load_file(path)
    config: Any = dict(family.denoiser.config)  # type: ignore[arg-type]
    parts = {family.denoiser_name: dict(convert_ldm_unet_checkpoint(dict(state), config))}
    for encoder, (prefix, is_open_clip) in ENCODERS[architecture(family).name].items():
        tensors = {n: t for n, t in state.items() if n.startswith(prefix)}
        converted = (
            convert_open_clip_checkpoint(family.text_encoders[encoder], tensors, prefix)
            if is_open_clip
            else convert_ldm_clip_checkpoint(tensors)
        )
        parts[encoder] = {n.removeprefix("text_model."): t for n, t in converted.items()}
    return parts
