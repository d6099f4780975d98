"""Load the part of a model that closed forms read: the text encoders, and the denoiser's maps that read text.

The rest of the denoiser and the autoencoder are built on the meta device, with shapes and no numbers. Such a model
encodes text and gives the weights that read it; it draws nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from excise.errors import ModelError

if TYPE_CHECKING:
    import torch

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

    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    denoiser = _on_meta(folder, index, family.denoiser_name)
    _fill(denoiser, folder / family.denoiser_name, variant, (family.text_reading, tuple(paths)), dtype)
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


def _fill(
    network: Any,
    folder: Path,
    variant: str | None,
    wanted: tuple[tuple[str, ...], tuple[str, ...]],
    dtype: torch.dtype,
) -> None:
    """Read the parameters of modules whose paths end in one way, and those of some paths, into a network on meta."""
    import torch

    from excise.families.tensor_files import read_tensors, tensor_files

    endings, paths = wanted
    names = [
        name
        for name, _ in network.named_parameters()
        if name.rpartition(".")[0].endswith(endings) or _belongs(name, paths)
    ]
    for name, tensor in read_tensors(tensor_files(folder, variant), names, dtype).items():
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
