"""Weights in training: a LoRA on chosen maps, or the weights themselves, in any network of a pipeline.

Paths are those of edits: of the denoiser, or of a text encoder where they begin with its name ("text_encoder.").
Everything is in place inside a `with` block only; afterwards the model holds the very parameters it had.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.nn.utils import parametrize

from excise.edits.accounts import networks, split_path
from excise.edits.deltas import Delta, Dense, LowRank
from excise.errors import SettingError
from excise.families.base import Family
from excise.families.maps import WeightMap
from excise.families.networks import check_trainable

NAME = "excise"
READING = ("cross", "joint", "shared", "door")  # sources of maps that read text (families/base.py, `WeightMap`)
WeightsT = TypeVar("WeightsT", bound="Weights")


def blocks(family: Family) -> list[str]:
    """The blocks of a denoiser that may be trained alone, in its order: the doors of the text, and attention blocks."""
    return list(dict.fromkeys(m.block for m in (*family.door_maps(), *family.attention_maps())))


def choose_maps(family: Family, modules: str, chosen: Sequence[str] | None = None) -> list[WeightMap]:
    """The attention maps of a role (families/roles.py) in some blocks of the denoiser, or in all of them.

    Raises:
        SettingError: the denoiser has no such block, or the blocks have nothing of that role.
        ModelError: the family has nothing of that role.
    """
    every = blocks(family)
    for block in chosen or []:
        if block not in every:
            raise SettingError(f"the model has no attention block '{block}'; it has: {', '.join(every)}.")
    maps = [m for m in family.maps(modules) if chosen is None or m.block in chosen]
    if not maps:
        raise SettingError(f"nothing of '{modules}' is in the chosen blocks; choose other blocks or other modules.")
    return maps


def other_linears(family: Family) -> list[str]:
    """Every linear map of the denoiser outside the attention that reads text."""
    reading = {m.path for m in (*family.door_maps(), *family.attention_maps()) if m.source in READING}
    return [p for p, m in family.denoiser.named_modules() if isinstance(m, nn.Linear) and p not in reading]


def linears(family: Family, role: str) -> list[str]:
    """The maps of a role, or with "all" every linear map of the denoiser, those of cross-attention first."""
    if role == "all":
        return [*linears(family, "cross"), *other_linears(family)]
    return [m.path for m in family.maps(role)]


def block_linears(family: Family) -> list[str]:
    """Every linear map inside the blocks of the denoiser that hold attention: attention and feed-forward maps."""
    inner = tuple(f"{m.block}." for m in family.attention_maps())
    return [p for p, m in family.denoiser.named_modules() if isinstance(m, nn.Linear) and p.startswith(inner)]


@dataclass(frozen=True)
class _Place:
    """A module to train: the network that it is in, and its name there."""

    network: Any
    name: str

    @property
    def module(self) -> Any:
        return self.network.get_submodule(self.name)

    def put(self, module: nn.Module) -> None:
        parent, _, last = self.name.rpartition(".")
        self.network.get_submodule(parent)._modules[last] = module


class Weights(ABC):
    """What is trained.

    Args:
        family: its networks are changed inside the `with` block only.
        paths: of the modules whose weights are trained.

    Raises:
        ModelError: a text encoder to train is not loaded, or its layers are wrapped.
    """

    def __init__(self, family: Family, paths: Sequence[str]) -> None:
        self.family, self.paths = family, list(paths)
        known = networks(family)
        of = {path: split_path(path, known)[0] for path in self.paths}
        self._networks = {name: network for name, network in known.items() if name in set(of.values())}
        for name, network in self._networks.items():
            if name:
                check_trainable(network)
        names = {id(m): name for network in self._networks.values() for name, m in network.named_modules()}
        self._places = {path: _Place(known[name], names[id(family.module(path))]) for path, name in of.items()}
        self._trainable: list[nn.Parameter] = []

    @property
    def text_encoders(self) -> dict[str, nn.Module]:
        """The text encoders that are trained, by name; where there are any, prompts must be encoded at each step."""
        return {name: network for name, network in self._networks.items() if name}

    def __enter__(self: WeightsT) -> WeightsT:
        """Put what is trained in place; nothing else of the pipeline's networks gets gradients."""
        parts = [p for network in networks(self.family).values() for p in network.parameters()]
        self._trainable = [p for p in parts if p.requires_grad]
        for p in self._trainable:
            p.requires_grad_(False)
        try:
            self._attach()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._detach()
        for p in self._trainable:
            p.requires_grad_(True)
        self._trainable = []

    @abstractmethod
    def _attach(self) -> None:
        """Put what is trained in place."""

    @abstractmethod
    def _detach(self) -> None:
        """Put back what was there; does nothing where nothing was attached."""

    @property
    @abstractmethod
    def parameters(self) -> dict[str, nn.Parameter]:
        """The trained parameters, by name."""

    @abstractmethod
    def teacher(self) -> AbstractContextManager[None]:
        """The model without what was trained, inside a `with` block."""

    @abstractmethod
    def deltas(self) -> Mapping[str, Delta]:
        """What training added to each weight, as an edit holds it."""

    def settle(self, rate: float) -> None:  # noqa: B027
        """What is to be done after a step of the optimiser at a learning rate; nothing, if a subclass adds nothing."""

    @torch.no_grad()
    def load(self, state: Mapping[str, Tensor]) -> None:
        """Set the trained values, by the names of `parameters`."""
        for name, parameter in self.parameters.items():
            parameter.copy_(state[name].to(parameter))

    @torch.no_grad()
    def state(self) -> dict[str, Tensor]:
        """A copy of the trained values, by the names of `parameters`, on the CPU."""
        return {name: p.detach().cpu().clone() for name, p in self.parameters.items()}


class Adapter(Weights):
    """A LoRA of one rank on some maps: W' = W + b a, b (out, r) from zero, a (r, in) Gaussian, both trained in fp32.

    Args:
        family: its networks are changed inside the `with` block only.
        paths: of the linear maps.
        rank: r, or as many as a map's span has columns where those are fewer; alpha equals it.
        seed: of the Gaussian.
        spans: by path, (in, q) columns that the input factor is confined to: a = a' span^T with a' (r, q) trained.
            States outside the span are then not touched at all.

    Raises:
        SettingError: a path is of a table of token embeddings, for which there is no LoRA here.
    """

    def __init__(
        self, family: Family, paths: Sequence[str], rank: int, seed: int, spans: Mapping[str, Tensor] | None = None
    ) -> None:
        super().__init__(family, paths)
        self.rank, self.seed, self.spans = rank, seed, spans or {}
        self._layers: dict[str, LoraLayer] = {}
        self._configs: dict[str, Any] = {}
        for path, place in self._places.items():
            if isinstance(place.module, nn.Embedding):
                raise SettingError(f"'{path}' is a table of token embeddings; train it whole (weights=full).")

    def _attach(self) -> None:
        for name, network in self._networks.items():
            self._configs[name] = getattr(network, "peft_config", None)  # of a LoRA that was loaded before
            pattern = "|".join(re.escape(p.name) for p in self._places.values() if p.network is network)
            within = {f"^{re.escape(self._places[path].name)}$": self._rank(path) for path in self.spans}
            config = LoraConfig(
                r=self.rank,
                lora_alpha=self.rank,
                rank_pattern=within,
                alpha_pattern=within,
                target_modules=pattern,
                init_lora_weights="gaussian",
            )
            with torch.random.fork_rng():
                inject_adapter_in_model(config, network, NAME)
        generator = torch.Generator().manual_seed(self.seed)
        for path, place in self._places.items():
            layer = place.module
            self._layers[path] = layer
            down, up = layer.lora_A[NAME], layer.lora_B[NAME]
            down.float(), up.float()
            with torch.no_grad():
                start = torch.randn(down.weight.shape, generator=generator) / self._rank(path)
                down.weight.copy_(start)
                up.weight.zero_()
            if path in self.spans:
                parametrize.register_parametrization(down, "weight", _Confined(self.spans[path].to(down.weight)))

    def _rank(self, path: str) -> int:
        return min(self.rank, self.spans[path].shape[1]) if path in self.spans else self.rank

    def _detach(self) -> None:
        for path, layer in self._layers.items():
            self._places[path].put(layer.base_layer)
        for name, config in self._configs.items():
            if config is not None:
                self._networks[name].peft_config = config
            elif hasattr(self._networks[name], "peft_config"):
                del self._networks[name].peft_config
        self._layers, self._configs = {}, {}

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        return {
            f"{path}.{part_name}": p
            for path, layer in self._layers.items()
            for part_name, part in (("a", layer.lora_A[NAME]), ("b", layer.lora_B[NAME]))
            for p in part.parameters()
        }

    def teacher(self) -> AbstractContextManager[None]:
        """The model without the adapter, inside a `with` block."""
        return self.only(())

    @contextmanager
    def only(self, paths: Collection[str]) -> Iterator[None]:
        """The model with the part of the adapter that is on `paths`, inside a `with` block."""
        resting = [layer for path, layer in self._layers.items() if path not in paths]
        for layer in resting:
            layer.enable_adapters(False)
        try:
            yield
        finally:
            for layer in resting:
                layer.enable_adapters(True)

    @torch.no_grad()
    def deltas(self) -> dict[str, LowRank]:
        factors = {p: (layer.lora_B[NAME].weight, layer.lora_A[NAME].weight) for p, layer in self._layers.items()}
        return {p: LowRank(*(f.detach().float().cpu().clone() for f in both)) for p, both in factors.items()}


class FullWeights(Weights):
    """The weights themselves, trained in fp32 copies: of linear maps, convolutions or tables of token embeddings."""

    def __init__(self, family: Family, paths: Sequence[str]) -> None:
        super().__init__(family, paths)
        self._originals: dict[str, nn.Parameter] = {}
        self._copies: dict[str, nn.Parameter] = {}

    def _attach(self) -> None:
        for path, place in self._places.items():
            module = place.module
            self._originals[path] = module.weight
            self._copies[path] = module.weight = nn.Parameter(module.weight.detach().float().clone())

    def _detach(self) -> None:
        self._put(self._originals)
        self._originals, self._copies = {}, {}

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        return {f"{path}.weight": p for path, p in self._copies.items()}

    @contextmanager
    def teacher(self) -> Iterator[None]:
        self._put(self._originals)
        try:
            yield
        finally:
            self._put(self._copies)

    def deltas(self) -> dict[str, Dense]:
        changes = {p: self._copies[p].detach() - self._originals[p].detach().float() for p in self.paths}
        return {p: Dense(change.cpu()) for p, change in changes.items()}

    def _put(self, weights: Mapping[str, nn.Parameter]) -> None:
        for path, weight in weights.items():
            self._places[path].module.weight = weight


class _Confined(nn.Module):
    """a = a' span^T; a Gaussian a stands for a Gaussian a' of the same size, however long the span's columns are."""

    span: Tensor

    def __init__(self, span: Tensor) -> None:
        super().__init__()
        self.register_buffer("span", span)

    def forward(self, inner: Tensor) -> Tensor:
        return inner @ self.span.mT

    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight @ nn.functional.normalize(self.span, dim=0)
