"""Save networks whose weights are in files tensor by tensor, as diffusers and transformers save networks in memory."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from torch import Tensor, nn

from excise.families.networks import parameters
from excise.families.partial import pieces, source_of
from excise.families.tensors import KINDS
from excise.support.headers import METADATA

LARGEST = "10GB"  # of a file, as diffusers cuts shards


@dataclass(frozen=True)
class Outgoing:
    """A tensor that is to be written.

    Attributes:
        dtype: the precision to write it in.
        shape: its shape.
        pieces: returns its numbers, row by row, in consecutive pieces of any precision.
    """

    dtype: torch.dtype
    shape: tuple[int, ...]
    pieces: Callable[[], Iterator[Tensor]]

    @property
    def size(self) -> int:
        """Number of its bytes."""
        return self.dtype.itemsize * math.prod(self.shape)


def unread(pipe: Any) -> dict[str, Any]:
    """The networks of a pipeline that can be saved from their own folders, by component."""
    sources = {name: source_of(part) for name, part in pipe.components.items()}
    return {name: pipe.components[name] for name, source in sources.items() if source and source.files.where.is_dir()}


def in_folders(pipe: Any) -> bool:
    """Whether every network of a pipeline that is not in memory is among `unread`."""
    known = unread(pipe)
    return all(name in known for name, part in pipe.components.items() if source_of(part) is not None)


@contextmanager
def saving_piecewise(pipe: Any) -> Iterator[None]:
    """Let networks that are not in memory save themselves from their files inside the block."""
    networks = unread(pipe).values()
    for network in networks:
        network.save_pretrained = _saver(network)
    try:
        yield
    finally:
        for network in networks:
            del network.__dict__["save_pretrained"]


def _saver(network: Any) -> Callable[..., None]:
    def save_pretrained(save_directory: str, safe_serialization: bool = True) -> None:
        save(network, Path(save_directory))

    return save_pretrained


def save(network: Any, folder: Path) -> None:
    """Write the configuration and the weights of a network, one piece of a tensor in memory at a time.

    Raises:
        OSError: the folder cannot be written.
        ModelError: the network's own files cannot be read.
    """
    from diffusers import ConfigMixin

    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(network, ConfigMixin):
        network.save_config(folder)
        base = "diffusion_pytorch_model"
    else:
        network.config.dtype = str(network.dtype).removeprefix("torch.")
        network.config.architectures = [type(network).__name__]
        network.config.save_pretrained(folder)
        base = "model"
    outgoing, like = _outgoing(network)
    split = split_torch_state_dict_into_shards(
        like, filename_pattern=base + "{suffix}.safetensors", max_shard_size=LARGEST
    )
    for file, names in split.filename_to_tensors.items():
        write_pieces(folder / file, {name: outgoing[name] for name in names})
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        text = json.dumps(index, indent=2, sort_keys=True) + "\n"
        (folder / f"{base}.safetensors.index.json").write_text(text, encoding="utf-8")


def _outgoing(network: Any) -> tuple[dict[str, Outgoing], dict[str, Any]]:
    """What a network's files hold, by name, and tensors of the same shapes without numbers."""
    source = source_of(network)
    assert source is not None
    outgoing, like = dict[str, Outgoing](), dict[str, Any]()
    for own, weight in parameters(network).items():
        name = source.name_of(own)
        outgoing[name] = Outgoing(weight.dtype, tuple(weight.shape), partial(pieces, network, own))
        like[name] = weight.detach().to("meta")
    for own, buffer in _saved_buffers(network):
        outgoing[own] = Outgoing(buffer.dtype, tuple(buffer.shape), partial(source.files.pieces, own))
        like[own] = buffer.to("meta")
    return outgoing, like


def _saved_buffers(network: nn.Module) -> Iterator[tuple[str, Any]]:
    for path, module in network.named_modules():
        for name, buffer in module._buffers.items():
            if buffer is not None and name not in module._non_persistent_buffers_set:
                yield f"{path}.{name}" if path else name, buffer


def write_pieces(path: Path, tensors: Mapping[str, Outgoing]) -> None:
    """Write a safetensors file piece by piece, to the byte as `safetensors.torch.save_file` writes it.

    Raises:
        OSError: it cannot be written.
        ModelError: a tensor cannot be read.
    """
    kinds = {dtype: kind for kind, dtype in KINDS.items()}
    order = sorted(tensors, key=lambda name: (list(KINDS.values()).index(tensors[name].dtype), name))
    header: dict[str, Any] = {METADATA: {"format": "pt"}}
    end = 0
    for name in order:
        begin, end = end, end + tensors[name].size
        kind, shape = kinds[tensors[name].dtype], list(tensors[name].shape)
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in order:
            for piece in tensors[name].pieces():
                file.write(piece.to("cpu", tensors[name].dtype).view(torch.uint8).numpy().data)
