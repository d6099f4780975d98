"""Text encoders that are larger than memory: each layer's weights are read when it runs, and let go after it.

The hooks are those of accelerate, over weights that stay in their files (`partial`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from excise.errors import ModelError
from excise.families.networks import parameters
from excise.families.partial import complete, original, place, source_of

SHARE = 0.9  # of the memory that is free; the rest is for what is computed
_CGROUP = Path("/sys/fs/cgroup")


def read_or_stream(network: Any) -> None:
    """Read a text encoder's weights, or prepare to read them layer by layer where they do not fit into memory.

    Raises:
        ModelError: its files cannot be read.
    """
    source = source_of(network)
    if source is None or streams(network):
        return
    missing = [weight for weight in parameters(network).values() if weight.is_meta]
    if _bytes(missing) <= SHARE * free_memory(source.device):
        complete(network)
    else:
        stream(network)


def check_fits(network: Any, what: str, device: torch.device) -> None:
    """Refuse a network that cannot be read layer by layer and is too large to be read as a whole.

    Raises:
        ModelError: it does not fit into the memory that is free.
    """
    needed, free = _bytes(parameters(network).values()), free_memory(device)
    if needed > free:
        raise ModelError(
            f"{what} takes {needed / 1e9:.1f} GB of memory, {free / 1e9:.1f} GB are free, and its files name "
            "weights in a way that only reads them all at once; free some memory, or use --dtype bfloat16."
        )


def _bytes(weights: Iterable[Tensor]) -> int:
    return sum(weight.numel() * weight.dtype.itemsize for weight in weights)


def streams(network: Any) -> bool:
    """Whether a network is read layer by layer as it runs."""
    return source_of(network) is not None and any(hasattr(module, "_hf_hook") for module in network.modules())


def stream(network: Any) -> None:
    """Let each layer of a network, whose weights are in files, read them when it runs; what is in memory stays there.

    Raises:
        ModelError: files of weights that are wanted at once cannot be read.
    """
    from accelerate.hooks import AlignDevicesHook, add_hook_to_module

    source = source_of(network)
    names = {weight: name for name, weight in parameters(network).items()}
    for module in network.modules():
        own = {name: weight for name, weight in module._parameters.items() if weight is not None}
        if not own:
            continue
        if not all(weight.is_meta for weight in own.values()):  # an edit is in force on it
            place(network, [names[weight] for weight in own.values()])
            continue
        weights = _Files({name: partial(original, network, names[weight]) for name, weight in own.items()})
        hook = AlignDevicesHook(execution_device=source.device, offload=True, weights_map=weights)  # type: ignore[union-attr]
        add_hook_to_module(module, hook)


class _Files(Mapping[str, Tensor]):
    """Weights of one module by name, read whenever they are asked for."""

    def __init__(self, readers: Mapping[str, Callable[[], Tensor]]) -> None:
        self._readers = readers

    def __getitem__(self, name: str) -> Tensor:
        return self._readers[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._readers)

    def __len__(self) -> int:
        return len(self._readers)


def free_memory(device: torch.device) -> float:
    """Bytes that are free on a device; of a container, what its limit leaves."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    import psutil

    free = float(psutil.virtual_memory().available)
    try:
        limit, used = ((_CGROUP / name).read_text().strip() for name in ("memory.max", "memory.current"))
        return min(free, float(limit) - float(used)) if limit != "max" else free
    except (OSError, ValueError):
        return free
