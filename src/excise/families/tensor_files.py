"""Named tensors of one network, read one by one from its safetensors files."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from excise.errors import ModelError

STEM = "diffusion_pytorch_model"


def tensor_files(folder: Path, variant: str | None) -> dict[str, Path]:
    """The file of each tensor of a network that diffusers saved in a folder, in one file or in shards.

    A variant that the folder does not have means its plain weights, as in diffusers.

    Raises:
        ModelError: there are no weights, or the index of the shards cannot be read or names files that are missing.
    """
    for part in dict.fromkeys([variant, None]):
        middle = f".{part}" if part else ""
        whole, index = folder / f"{STEM}{middle}.safetensors", folder / f"{STEM}.safetensors.index{middle}.json"
        if whole.is_file():
            with _opened(whole) as file:
                return dict.fromkeys(file.keys(), whole)
        if index.is_file():
            return _sharded(index)
    raise ModelError(f"{folder} holds no {STEM}.safetensors and no index of shards; copy the folder again.")


def _sharded(index: Path) -> dict[str, Path]:
    """The file of each tensor by an index of shards (raises as `tensor_files`)."""
    try:
        names = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        files = {str(name): index.parent / str(file) for name, file in names.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"{index} cannot be read as an index of shards ({type(error).__name__}); copy it again."
        ) from error
    missing = sorted({file.name for file in files.values() if not file.is_file()})
    if missing:
        raise ModelError(f"{index} names {', '.join(missing[:3])}, which is not beside it; copy the folder again.")
    return files


def read_tensors(files: Mapping[str, Path], names: Iterable[str], dtype: torch.dtype) -> dict[str, Tensor]:
    """Read tensors by name and cast them, one at a time; each file is opened once.

    Raises:
        ModelError: a tensor lies in no file, or a file cannot be read.
    """
    by_file: dict[Path, list[str]] = {}
    for name in names:
        if name not in files:
            raise ModelError(f"no file of the model holds the tensor '{name}'; the files are of another architecture.")
        by_file.setdefault(files[name], []).append(name)
    tensors: dict[str, Tensor] = {}
    for path, wanted in by_file.items():
        with _opened(path) as file:
            for name in wanted:
                try:
                    tensors[name] = file.get_tensor(name).to(dtype)
                except (SafetensorError, OSError) as error:
                    raise ModelError(f"{path} does not hold '{name}' ({error}); copy the file again.") from error
    return tensors


def _opened(path: Path) -> Any:
    """An open safetensors file (raises ModelError)."""
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} cannot be read ({error}); copy the file again.") from error
