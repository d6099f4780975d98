"""LoRA on chosen linear maps of a denoiser, for the time of a `with` block; taken off, the model is the very same."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.nn.utils import parametrize

from excise.edits.deltas import Delta, Dense, LowRank
from excise.errors import SettingError
from excise.families.base import Family, WeightMap

NAME = "excise"
MODULES = {
    "cross_kv": lambda m: m.source == "cross" and m.part in "kv",
    "cross": lambda m: m.source == "cross",
    "self": lambda m: m.source == "self",
    "attention": lambda m: True,
}
"""What to train, by role: keys and values that read text, all of cross-attention, all of self-attention, or both."""


def blocks(family: Family) -> list[str]:
    """The attention blocks of a denoiser, in its order."""
    return list(dict.fromkeys(m.block for m in family.attention_maps()))


def choose_maps(family: Family, modules: str, chosen: Sequence[str] | None = None) -> list[WeightMap]:
    """The maps of a role in some blocks (in all of them where None).

    Raises:
        SettingError: a block that the denoiser does not have, or nothing of that role in the blocks.
    """
    known = blocks(family)
    for block in chosen or []:
        if block not in known:
            raise SettingError(f"the model has no attention block '{block}'; it has: {', '.join(known)}.")
    found = [m for m in family.attention_maps() if MODULES[modules](m) and (chosen is None or m.block in chosen)]
    if not found:
        raise SettingError(f"nothing of '{modules}' is in the chosen blocks; choose other blocks or other modules.")
    return found


def other_linears(family: Family) -> list[str]:
    """Every linear map of the denoiser outside the attention that reads text."""
    cross = {m.path for m in family.attention_maps() if m.source == "cross"}
    return [p for p, m in family.denoiser.named_modules() if isinstance(m, nn.Linear) and p not in cross]


class Weights(ABC):
    """What is trained, in place inside a `with` block only."""

    @abstractmethod
    def __enter__(self) -> Weights: ...

    @abstractmethod
    def __exit__(self, *error: object) -> None: ...

    @property
    @abstractmethod
    def parameters(self) -> dict[str, nn.Parameter]:
        """What is trained, by name."""

    @abstractmethod
    def teacher(self) -> AbstractContextManager[None]:
        """The model as it is without what was trained."""

    @abstractmethod
    def deltas(self) -> Mapping[str, Delta]:
        """What training added to each weight, as an edit holds it."""

    @torch.no_grad()
    def load(self, state: Mapping[str, Tensor]) -> None:
        """Put trained values back, by the names of `parameters`."""
        for name, parameter in self.parameters.items():
            parameter.copy_(state[name].to(parameter))

    @torch.no_grad()
    def state(self) -> dict[str, Tensor]:
        """A copy of the trained values, by the names of `parameters`, on the CPU."""
        return {name: p.detach().cpu().clone() for name, p in self.parameters.items()}


class Adapter(Weights):
    """A LoRA of one rank on some maps: W' = W + b a, b (out, r) from zero, a (r, in) Gaussian, both trained in fp32.

    Args:
        family: its denoiser is changed inside the `with` block only.
        paths: of the linear maps.
        rank: r; alpha equals it.
        seed: of the Gaussian.
        spans: by path, (in, q) columns that the input factor is confined to: a = a' span^T with a' (r, q) trained.
            States outside the span are then not touched at all.
    """

    def __init__(
        self, family: Family, paths: Sequence[str], rank: int, seed: int, spans: Mapping[str, Tensor] | None = None
    ) -> None:
        self.denoiser: Any = family.denoiser
        self.paths, self.rank, self.seed, self.spans = list(paths), rank, seed, spans or {}
        self._layers: dict[str, LoraLayer] = {}

    def __enter__(self) -> Adapter:
        pattern = "|".join(re.escape(p) for p in self.paths)
        config = LoraConfig(r=self.rank, lora_alpha=self.rank, target_modules=pattern, init_lora_weights="gaussian")
        frozen = [p for p in self.denoiser.parameters() if p.requires_grad]
        self._theirs = getattr(self.denoiser, "peft_config", None)  # of a LoRA that was loaded before
        with torch.random.fork_rng():
            inject_adapter_in_model(config, self.denoiser, NAME)
        for p in frozen:  # peft freezes the base model; remember to give back what it was
            p.requires_grad_(False)
        self._frozen = frozen
        generator = torch.Generator().manual_seed(self.seed)
        for path in self.paths:
            layer = self.denoiser.get_submodule(path)
            self._layers[path] = layer
            down, up = layer.lora_A[NAME], layer.lora_B[NAME]
            down.float(), up.float()
            with torch.no_grad():
                start = torch.randn(down.weight.shape, generator=generator) / self.rank
                down.weight.copy_(start)
                up.weight.zero_()
            if path in self.spans:
                parametrize.register_parametrization(down, "weight", _Confined(self.spans[path].to(down.weight)))
        return self

    def __exit__(self, *error: object) -> None:
        for path, layer in self._layers.items():
            parent, _, name = path.rpartition(".")
            self.denoiser.get_submodule(parent)._modules[name] = layer.base_layer
        self._layers = {}
        if self._theirs is not None:
            self.denoiser.peft_config = self._theirs
        elif hasattr(self.denoiser, "peft_config"):
            del self.denoiser.peft_config
        for p in self._frozen:
            p.requires_grad_(True)

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """What is trained, by name."""
        return {
            f"{path}.{part_name}": p
            for path, layer in self._layers.items()
            for part_name, part in (("a", layer.lora_A[NAME]), ("b", layer.lora_B[NAME]))
            for p in part.parameters()
        }

    def teacher(self) -> AbstractContextManager[None]:
        """The model as it is without the adapter."""
        return self.only(())

    @contextmanager
    def only(self, paths: Collection[str]) -> Iterator[None]:
        """The model with that part of the adapter which is on `paths`."""
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
        """What the adapter adds to each weight, as an edit holds it."""
        factors = {p: (layer.lora_B[NAME].weight, layer.lora_A[NAME].weight) for p, layer in self._layers.items()}
        return {p: LowRank(*(f.detach().float().cpu().clone() for f in both)) for p, both in factors.items()}


class FullWeights(Weights):
    """The weights themselves, trained in fp32 copies; otherwise as `Adapter`."""

    def __init__(self, family: Family, paths: Sequence[str]) -> None:
        self.denoiser: Any = family.denoiser
        self.paths = list(paths)
        self._originals: dict[str, nn.Parameter] = {}
        self._copies: dict[str, nn.Parameter] = {}

    def __enter__(self) -> FullWeights:
        for path in self.paths:
            module = self.denoiser.get_submodule(path)
            self._originals[path] = module.weight
            self._copies[path] = module.weight = nn.Parameter(module.weight.detach().float().clone())
        return self

    def __exit__(self, *error: object) -> None:
        self._put(self._originals)
        self._originals, self._copies = {}, {}

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        return {f"{path}.weight": p for path, p in self._copies.items()}

    @contextmanager
    def teacher(self) -> Iterator[None]:
        """The model as it is without what was trained."""
        self._put(self._originals)
        try:
            yield
        finally:
            self._put(self._copies)

    def deltas(self) -> dict[str, Dense]:
        """What training added to each weight."""
        changes = {p: self._copies[p].detach() - self._originals[p].detach().float() for p in self.paths}
        return {p: Dense(change.cpu()) for p, change in changes.items()}

    def _put(self, weights: Mapping[str, nn.Parameter]) -> None:
        for path, weight in weights.items():
            self.denoiser.get_submodule(path).weight = weight


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
