"""Load the part of a model that closed forms read: the text encoders, and the denoiser's maps that read text.

The rest of the denoiser and the autoencoder are built on the meta device, with shapes and no numbers. Such a model
encodes text and gives the weights that read it; it draws nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from excise.errors import ModelError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from excise.families.pipeline import PipelineFamily

CHECKERS = ("safety_checker", "image_encoder")
"""Parts of a pipeline that look at pictures only."""


def load_text_part(
    folder: Path,
    family: type[PipelineFamily],
    dtype: torch.dtype,
    device: str,
    variant: str | None = None,
    paths: Sequence[str] = (),
) -> Any:
    """Load the pipeline of a diffusers folder without what reads no text.

    Args:
        paths: further modules or parameters of the denoiser to read.

    Raises:
        ModelError: a part cannot be built, or a tensor cannot be read.
    """
    from diffusers import DiffusionPipeline

    from excise.families.tensor_files import read_tensors, tensor_files

    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    denoiser = _on_meta(folder, index, family.denoiser_name)
    wanted = [
        name
        for name, _ in denoiser.named_parameters()
        if name.rpartition(".")[0].endswith(family.text_reading) or _belongs(name, paths)
    ]
    files = tensor_files(folder / family.denoiser_name, variant)
    _fill(denoiser, read_tensors(files, wanted, dtype), folder)
    parts = {family.denoiser_name: denoiser, "vae": _on_meta(folder, index, "vae")}
    parts |= {name: None for name in CHECKERS if index.get(name, [None])[0] is not None}
    plain = {"requires_safety_checker": False} if "requires_safety_checker" in index else {}
    pipe = DiffusionPipeline.from_pretrained(
        folder, variant=variant, local_files_only=True, use_safetensors=True, dtype=dtype, **parts, **plain
    )
    for part in [getattr(pipe, name) for name in family.encoder_names]:
        if part is not None:
            part.to(device)
    _move(denoiser, device)
    return pipe


def _on_meta(folder: Path, index: dict[str, Any], part: str) -> Any:
    """Build a part of a pipeline from its configuration alone, without numbers."""
    import diffusers
    import torch

    kind = getattr(diffusers, str(index.get(part, ["", ""])[1]), None)
    if kind is None:
        raise ModelError(f"{folder / 'model_index.json'} names no class of diffusers for its part '{part}'.")
    with torch.device("meta"):
        return kind.from_config(kind.load_config(folder / part, local_files_only=True)).eval()


def _fill(network: Any, tensors: Mapping[str, Tensor], folder: Path) -> None:
    """Put tensors in the place of a network's parameters on the meta device.

    Raises:
        ModelError: one has another shape.
    """
    import torch

    for name, tensor in tensors.items():
        path, _, key = name.rpartition(".")
        module = network.get_submodule(path)
        if module._parameters[key].shape != tensor.shape:
            raise ModelError(
                f"{folder}: '{name}' has the shape {tuple(tensor.shape)} in the weights and "
                f"{tuple(module._parameters[key].shape)} by the configuration; copy the folder again."
            )
        module._parameters[key] = torch.nn.Parameter(tensor)


def _belongs(name: str, paths: Iterable[str]) -> bool:
    return any(name == path or name.startswith(f"{path}.") for path in paths)


def _move(network: Any, device: str) -> None:
    """Move the parameters that were read to a device."""
    for parameter in network.parameters():
        if not parameter.is_meta:
            parameter.data = parameter.data.to(device)
