"""Networks whose weights stay in their files: built from a configuration alone, and read as far as something asks.

A parameter that is not read has its shape and precision, on the device "meta". `original` reads one without keeping
it, `place` puts some into the network, `complete` all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from excise.families.networks import bare, parameter_in
from excise.families.tensors import TensorFiles


@dataclass(frozen=True)
class Source:
    """Where the weights of a network come from.

    Attributes:
        files: that hold them.
        name_of: from a parameter's name in the network to its name in the files.
        whole: loads the whole network, as it would have been without this.
        device: where its weights belong.
    """

    files: TensorFiles
    name_of: Callable[[str], str]
    whole: Callable[[], nn.Module]
    device: torch.device


_sources: WeakKeyDictionary[nn.Module, Source] = WeakKeyDictionary()


def leave_unread(network: nn.Module, source: Source) -> None:
    """Note where the weights of a network on the device "meta" come from."""
    _sources[network] = source


def source_of(network: Any) -> Source | None:
    """Where the unread weights of a network come from; None for a network in memory, and for what is no network."""
    return _sources.get(bare(network)) if isinstance(network, nn.Module) else None


def place(network: Any, paths: Iterable[str]) -> None:
    """Read parameters into a network where they are not in it; a path is a parameter's, or a module's for its weight.

    Raises:
        AttributeError: the network has no such parameter.
        ModelError: a file does not hold it, or cannot be read.
    """
    if source_of(network) is None:
        return
    for path in paths:
        module, name = parameter_in(network, path)
        now = module._parameters[name]
        if now.is_meta:
            module._parameters[name] = nn.Parameter(original(network, path), requires_grad=now.requires_grad)


def original(network: Any, path: str) -> Tensor:
    """A parameter, read from its file where it is not in the network; raises as `place`."""
    module, name = parameter_in(network, path)
    now: Tensor = module._parameters[name]
    source = source_of(network)
    if source is None or not now.is_meta:
        return now.detach()
    own = path if path.rpartition(".")[2] == name else f"{path}.{name}"
    return source.files.read(source.name_of(own), now.dtype, tuple(now.shape)).to(source.device)


def place_modules(network: Any, paths: Iterable[str]) -> None:
    """Read all parameters of some modules into a network; raises as `place`."""
    for path in paths:
        names = [name for name, _ in network.get_submodule(path).named_parameters()]
        place(network, [f"{path}.{name}" for name in names])


@torch.no_grad()
def complete(network: Any) -> None:
    """Read everything into a network that is not in it yet.

    Raises:
        ModelError: its files cannot be read.
    """
    network = bare(network)
    source = _sources.get(network)
    if source is None:
        return
    modules = dict(source.whole().to(source.device).named_modules())
    for path, module in network.named_modules():
        fresh = modules[path]
        for name, weight in module._parameters.items():
            if weight is not None and weight.is_meta:
                module._parameters[name] = fresh._parameters[name]
        for name in module._buffers:
            module._buffers[name] = fresh._buffers[name]
    del _sources[network]


class Weights(Mapping[str, Tensor]):
    """Weights by path; one that is not in its network is read each time that it is asked for, and not kept.

    Args:
        readers: by path, a function that returns the weight.
        stored: by path, a tensor of its shape and precision.
    """

    def __init__(self, readers: Mapping[str, Callable[[], Tensor]], stored: Mapping[str, Tensor]) -> None:
        self._readers, self._stored = readers, stored

    def __getitem__(self, path: str) -> Tensor:
        return self._readers[path]()

    def __contains__(self, path: object) -> bool:
        return path in self._readers

    def __iter__(self) -> Iterator[str]:
        return iter(self._readers)

    def __len__(self) -> int:
        return len(self._readers)

    def shape(self, path: str) -> torch.Size:
        """The shape of a weight, which is not read."""
        return self._stored[path].shape

    @property
    def dtypes(self) -> set[torch.dtype]:
        """The precisions of all weights, none of which is read."""
        return {weight.dtype for weight in self._stored.values()}
