"""Read files and folders of other tools as tensors by name, without running any code in them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from excise.errors import EditFileError

PICKLES = (".pt", ".pth", ".ckpt", ".bin")
NESTS = ("state_dict", "model", "model_state_dict")  # keys under which some tools nest the weights
SAFE_TORCH = (2, 6)
PEFT = "adapter_config.json"  # peft's configuration file, which contains the scale of the factors


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a file, or a folder of a pipeline or of one of its components.

    Returns:
        Tensors by name (in a pipeline's folder with the component's name in front), and metadata: that of the file,
        and the text of peft's configuration under the key `PEFT`.

    Raises:
        EditFileError: the file or folder cannot be read, or contains more than weights.
    """
    if path.is_dir():
        state, metadata = _read_folder(path)
        return state, metadata | _peft_configuration(path)
    if not path.is_file():
        raise EditFileError(f"there is no file or folder {path}; give the result of another tool.")
    state, metadata = _read_file(path)
    return state, metadata | (_peft_configuration(path.parent) if path.stem == "adapter_model" else {})


def _read_file(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    if path.suffix.lower() in PICKLES:
        return _read_pickle(path), {}
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise EditFileError(
            f"{path} is no safetensors file, or it is damaged ({error}); expected .safetensors, or a pickle of "
            f"weights ({', '.join(PICKLES)})."
        ) from error


def _peft_configuration(folder: Path) -> dict[str, str]:
    try:
        return {PEFT: (folder / PEFT).read_text(encoding="utf-8")} if (folder / PEFT).is_file() else {}
    except (OSError, UnicodeDecodeError) as error:
        raise EditFileError(
            f"{folder / PEFT}, which tells the scale of its factors, cannot be read: {error}."
        ) from error


def _read_pickle(path: Path) -> dict[str, Tensor]:
    if tuple(int(x) for x in torch.__version__.split("+")[0].split(".")[:2]) < SAFE_TORCH:
        raise EditFileError(
            f"{path} is a pickle, and torch {torch.__version__} cannot read one safely (CVE-2025-32434); upgrade torch "
            f"to {'.'.join(map(str, SAFE_TORCH))}, or save the state_dict as safetensors where it was made."
        )
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle may fail in any way
        raise EditFileError(
            f"{path} holds more than weights, or is damaged; nothing in it was executed. Save its state_dict as "
            "safetensors where it was made."
        ) from error
    if not isinstance(content, Mapping) or not content:
        raise EditFileError(f"{path} holds {type(content).__name__}; expected tensors by name.")
    try:
        state = _flatten(content)
    except RecursionError as error:
        raise EditFileError(f"{path} holds something that holds itself; expected tensors by name.") from error
    if not state:
        raise EditFileError(f"{path} holds no tensors by name.")
    return state


def _flatten(content: Mapping[Any, Any]) -> dict[str, Tensor]:
    """Return the tensors of nested mappings; keys are joined by dots, those in `NESTS` are dropped."""
    state: dict[str, Tensor] = {}
    for key, value in content.items():
        if isinstance(value, Tensor):
            state[str(key)] = value
        elif isinstance(value, Mapping):
            prefix = "" if key in NESTS else f"{key}."
            state |= {prefix + name: tensor for name, tensor in _flatten(value).items()}
    return state


def _read_folder(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read the folder of a pipeline (denoiser and text encoders), or of one of its components."""
    parts = [p for p in sorted(path.iterdir()) if p.is_dir() and re.match(r"(unet|transformer|text_encoder)", p.name)]
    if not parts:
        return _read_weights(path)
    return {f"{part.name}.{name}": t for part in parts for name, t in _read_weights(part)[0].items()}, {}


def _read_weights(folder: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    files = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin")) or sorted(folder.glob("*.pt"))
    # If the folder has a half-precision variant as well, take the full weights.
    files = [f for f in files if ".fp16." not in f.name and ".fp16-" not in f.name] or files
    if not files:
        raise EditFileError(f"{folder} holds neither .safetensors nor .bin files; expected a folder of diffusers.")
    state, metadata = dict[str, Tensor](), dict[str, str]()
    for file in files:
        tensors, fields = _read_file(file)
        state, metadata = state | tensors, metadata | fields
    return state, metadata
