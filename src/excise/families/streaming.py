"""Text encoders whose weights stay in their files: each layer's are read when it runs, and let go after it.

A closed form encodes its prompts in one pass or two. Reading a layer as it runs takes no longer for that than reading
all of them before, and next to no memory. A layer that runs more often is kept, where memory allows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary, ref

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from excise.errors import ModelError
from excise.families.networks import parameters
from excise.families.partial import complete, original, source_of

RUNS = 2  # of a layer, after which its weights stay in memory
SHARE = 0.9  # of the memory that is free; the rest is for what is computed
_CGROUP = Path("/sys/fs/cgroup")


_streamed: WeakKeyDictionary[nn.Module, list[RemovableHandle]] = WeakKeyDictionary()


def read_whole(network: Any) -> None:
    """Read all weights of a text encoder; one that does not fit into memory goes on reading them as it runs.

    Raises:
        ModelError: its files cannot be read.
    """
    source = source_of(network)
    if source is None:
        return
    if not _fits(network, source.device):
        stream(network)
        return
    if handles := _streamed.pop(network, None):
        for handle in handles:
            handle.remove()
        del network._hf_hook
    complete(network)


def stream(network: Any) -> None:
    """Let each layer of a network, whose weights are in files, read them when it runs; what is in memory stays there.

    Running it raises ModelError where its files cannot be read.
    """
    source = source_of(network)
    if source is None or streams(network):
        return
    if source.whole is not None:  # it has more than its own parameters
        complete(network)
        return
    from accelerate.hooks import ModelHook

    network._hf_hook = ModelHook()
    network._hf_hook.execution_device = source.device  # where diffusers looks for it when weights are on "meta"
    paths = {weight: path for path, weight in parameters(network).items()}
    runs = RUNS if _fits(network, source.device) else None
    handles = _streamed.setdefault(network, [])
    for module in network.modules():
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = buffer.to(source.device)
        own = {name: paths[weight] for name, weight in module._parameters.items() if weight is not None}
        if own:
            layer = _Layer(network, own, runs)
            handles.append(module.register_forward_pre_hook(layer.read))
            handles.append(module.register_forward_hook(layer.let_go, always_call=True))


def streams(network: Any) -> bool:
    """Whether a network reads its layers as they run."""
    return source_of(network) is not None and network in _streamed


class _Layer:
    """Reads the weights of one module before it runs, and lets them go after it.

    Args:
        paths: in the network, of the module's parameters by name.
        runs: after how many the weights stay; None where they never do.
    """

    def __init__(self, network: nn.Module, paths: Mapping[str, str], runs: int | None) -> None:
        self._network, self._paths, self._runs = ref(network), paths, runs
        self._unread: dict[str, nn.Parameter | None] = {}

    def read(self, module: nn.Module, args: Any) -> None:
        """Read what is not in memory; an edit may have put something in the place of a weight."""
        unread = {n: weight for n, weight in module._parameters.items() if weight is not None and weight.is_meta}
        self._unread.update(unread)
        for name, weight in unread.items():
            read = original(self._network(), self._paths[name])
            module._parameters[name] = nn.Parameter(read, requires_grad=weight.requires_grad)

    def let_go(self, module: nn.Module, args: Any, output: Any) -> None:
        """Put the weights without numbers back."""
        if self._runs is not None:
            self._runs -= 1
        if self._runs is None or self._runs >= 0:
            module._parameters.update(self._unread)
        self._unread.clear()


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


def _fits(network: Any, device: torch.device) -> bool:
    """Whether the weights that are not in memory would leave some of it free."""
    return _bytes(w for w in parameters(network).values() if w.is_meta) <= SHARE * free_memory(device)


def _bytes(weights: Iterable[Tensor]) -> int:
    return sum(weight.numel() * weight.dtype.itemsize for weight in weights)


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
