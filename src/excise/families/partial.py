"""Networks whose weights stay in their files: built from a configuration alone, and read as far as something asks.

A parameter that is not read has its shape and precision, on the device "meta". `original` reads one without keeping
it, `place` puts some into the network, `complete` all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from excise.families.networks import bare, parameter_in, parameters, values
from excise.families.tensors import PIECE, TensorFiles


@dataclass(frozen=True)
class Source:
    """Where the weights of a network come from.

    Attributes:
        files: that hold them.
        name_of: from a parameter's name in the network to its name in the files.
        whole: loads the whole network, as it would have been without this; None where its parameters are all there is.
        device: where its weights belong.
    """

    files: TensorFiles
    name_of: Callable[[str], str]
    whole: Callable[[], nn.Module] | None
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


def pieces(network: Any, path: str) -> Iterator[Tensor]:
    """The numbers of a parameter as `original` returns it, row by row, in consecutive pieces of exact values."""
    source = source_of(network)
    module, name = parameter_in(network, path)
    now: Tensor = module._parameters[name]
    if source is None or not now.is_meta:
        yield from flat_pieces(now)
        return
    own = source.name_of(path if path.rpartition(".")[2] == name else f"{path}.{name}")
    kind = source.files.kind(own)
    exact = now.dtype == kind or (now.dtype == torch.float32 and kind.itemsize <= 4)
    for piece in source.files.pieces(own, tuple(now.shape)):
        yield piece if exact else piece.to(now.dtype)


def device_of(network: Any) -> torch.device:
    """The device on which a network computes: that of its first weight, or where its unread weights belong."""
    source = source_of(network)
    return next(network.parameters()).device if source is None else source.device


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
    if source.whole is None:
        named = {weight: name for name, weight in parameters(network).items() if weight.is_meta}
        read = {w: nn.Parameter(original(network, name), w.requires_grad) for w, name in named.items()}
        for module in network.modules():
            for name, weight in module._parameters.items():
                if weight in read:
                    module._parameters[name] = read[weight]
        network.to(source.device)
    else:
        _take_over(network, source.whole())
    del _sources[network]


def _take_over(network: nn.Module, whole: nn.Module) -> None:
    """Put what a network lacks into it from another of its class."""
    modules = dict(whole.named_modules())
    for path, module in network.named_modules():
        fresh = modules[path]
        for name, weight in module._parameters.items():
            if weight is not None and weight.is_meta:
                module._parameters[name] = fresh._parameters[name]
        for name in module._buffers:
            module._buffers[name] = fresh._buffers[name]


def flat_pieces(weight: Tensor) -> Iterator[Tensor]:
    """The numbers of a tensor, row by row, in consecutive pieces."""
    yield from weight.detach().flatten().split(PIECE // 4)


@dataclass(frozen=True)
class Weight:
    """A weight that may lie in a file.

    Attributes:
        like: a tensor of its shape and precision.
        read: returns it.
        pieces: returns its numbers, row by row, in consecutive pieces; they may be in another precision that holds them
            exactly, and share memory.
        in_memory: whether nothing has to be read.
    """

    like: Tensor
    read: Callable[[], Tensor]
    pieces: Callable[[], Iterator[Tensor]]
    in_memory: bool

    @classmethod
    def unread(cls, network: Any, path: str, like: Tensor) -> Weight:
        """One that is read each time that it is asked for."""
        return cls(like, partial(original, network, path), partial(pieces, network, path), False)

    @classmethod
    def known(cls, weight: Tensor) -> Weight:
        """One that is in memory."""
        return cls(weight, lambda: weight, partial(flat_pieces, weight), True)


def weights_by_name(named: Mapping[str, Tensor], networks: Iterable[Any]) -> dict[str, Weight]:
    """Weights by name, those of some networks that are not in memory to be read when they are asked for."""
    places = {
        id(weight): (network, path)
        for network in networks
        if source_of(network) is not None
        for path, weight in parameters(network).items()
        if weight.is_meta
    }
    return {
        name: Weight.unread(*places[id(weight)], weight) if id(weight) in places else Weight.known(weight)
        for name, weight in named.items()
    }


class Weights(Mapping[str, Tensor]):
    """Weights by path; one that is not in its network is read each time that it is asked for, and not kept."""

    def __init__(self, weights: Mapping[str, Weight]) -> None:
        self._weights = weights

    @classmethod
    def known(cls, weights: Mapping[str, Tensor]) -> Weights:
        """Weights that are in memory."""
        return cls({name: Weight.known(weight) for name, weight in weights.items()})

    def __getitem__(self, path: str) -> Tensor:
        return self._weights[path].read()

    def __contains__(self, path: object) -> bool:
        return path in self._weights

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights)

    def __len__(self) -> int:
        return len(self._weights)

    def shape(self, path: str) -> torch.Size:
        """The shape of a weight, which is not read."""
        return self._weights[path].like.shape

    def pieces(self, path: str) -> Iterator[Tensor]:
        """The numbers of a weight in pieces: see `Weight`."""
        return self._weights[path].pieces()

    @property
    def dtypes(self) -> set[torch.dtype]:
        """The precisions of all weights, none of which is read."""
        return {weight.like.dtype for weight in self._weights.values()}

    def mark(self) -> Hashable:
        """What changes with every write to a weight that is in memory."""
        known = [(name, weight.like) for name, weight in self._weights.items() if weight.in_memory]
        # Writes past torch's version counter, as fusing a LoRA does, show in a few values of each weight.
        few = values(dict(known), 4).numpy().tobytes() if known else b""
        return tuple((name, w.data_ptr(), w._version) for name, w in known), few
