"""Quantised weights, told from files alone: what cannot be read as the numbers that a network computes with. No torch.

A matrix in eight bits means nothing without the scales beside it. Which scales a file holds, no configuration of
diffusers or transformers tells where another program wrote it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

from excise.errors import ModelError
from excise.families.architectures import model_header
from excise.support.headers import Entry

BESIDE = "or export an edit that was made there as a LoRA (excise export) and load that beside the quantised weights."
_SCALES = re.compile(
    r"(.*\.)?(scaled_fp8|weight_scale(_2|_inv)?|scale_weight|scale_input|input_scale|scales|absmax|quant_map"
    r"|quant_state\..*|qweight|qzeros|g_idx|comfy_quant)"
)
_INTEGERS = ("I8", "U8")  # of a matrix; tables of positions are wider
_READ = re.compile(r"(text_encoder|transformer|unet)(_\d)?")  # the parts that are read and edited


def sign_of_scales(tensors: Mapping[str, Entry]) -> str | None:
    """The first tensor that only a quantised file holds; None where there is none.

    >>> entry = Entry("F32", (), 0, 4)
    >>> sign_of_scales({"block.weight": entry, "block.weight_scale": entry, "logit_scale": entry})
    'block.weight_scale'
    """
    for name, entry in sorted(tensors.items()):
        matrix = entry.dtype in _INTEGERS and len(entry.shape) > 1
        beside = name.endswith("_scale") and name.removesuffix("_scale") in tensors
        if matrix or beside or _SCALES.fullmatch(name):
            return name
    return None


def check_file(path: Path) -> None:
    """Refuse a single file with quantised weights.

    Raises:
        ModelError: it holds some.
    """
    if (name := sign_of_scales(model_header(path).tensors)) is not None:
        raise ModelError(_refusal(str(path), name))


def check_folder(folder: Path, without: str | None = None) -> None:
    """Refuse a diffusers folder of which a part that is read lacks its folder, is in GGUF, or is quantised by scales.

    A part whose own configuration says how it is quantised is left to its library (`told_by_config`).

    Args:
        without: a part that is read from elsewhere.

    Raises:
        ModelError: it is so; the message names the part.
    """
    for name in parts_of(folder):
        part = folder / name
        if name == without:
            continue
        if not part.is_dir():
            raise ModelError(
                f"{folder} has no folder '{name}', which its model_index.json names; copy or download that part too."
            )
        if method_of(part) is not None:
            continue
        files = sorted(part.glob("*.safetensors"))
        if not files and any(part.glob("*.gguf")):
            raise gguf(f"the '{name}' in {folder}")
        for file in files:
            if (tensor := sign_of_scales(model_header(file).tensors)) is not None:
                raise ModelError(_refusal(f"the '{name}' in {folder}", tensor))


def gguf(where: str) -> ModelError:
    """The error for weights in GGUF; `where` begins its sentence."""
    return ModelError(
        f"{where} is quantised (GGUF), and is not read here; erase on the model as it is without that, {BESIDE}"
    )


def told_by_config(folder: Path) -> str | None:
    """The first part of a folder that says it is quantised, and what to do, as a sentence; None where none does."""
    for name in parts_of(folder):
        if (method := method_of(folder / name)) is not None:
            return (
                f"its '{name}' is quantised ({method}), and no weight of it could be read or edited; erase on the "
                f"model as it is without that, {BESIDE}"
            )
    return None


def parts_of(folder: Path) -> list[str]:
    """The denoiser and the text encoders that a folder's index names."""
    try:
        index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
        return [name for name, kind in index.items() if _READ.fullmatch(name) and all(kind)]
    except (OSError, ValueError, AttributeError, TypeError):
        return []  # which the reading of the index tells


def method_of(part: Path) -> str | None:
    """The method by which a part's configuration says that it is quantised."""
    try:
        told = json.loads((part / "config.json").read_text(encoding="utf-8")).get("quantization_config")
        return None if told is None else str(told.get("quant_method", "by a method that it does not name"))
    except (OSError, ValueError, AttributeError):
        return None


def _refusal(where: str, tensor: str) -> str:
    return (
        f"{where} holds '{tensor}', as weights do that are quantised with scales of their own; they cannot be read "
        f"here. Give the unquantised model, {BESIDE}"
    )
