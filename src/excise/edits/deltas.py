"""Changes of one weight: a low-rank map of the text, two factors, or the whole difference."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from excise.edits.record import EditRecord
from excise.families.base import Family


@dataclass(frozen=True)
class TextMap:
    """One low-rank map of the text, shared by many projections: W' = W + (W u) v.

    Attributes:
        u: (d, r). v: (r, d). d is the text width.
        modules: paths of the projections it is for.
    """

    u: Tensor
    v: Tensor
    modules: tuple[str, ...]

    def delta(self, weight: Tensor) -> Tensor:
        """(out, d) change of `weight`, in its dtype but at least single precision."""
        w = at_least_single(weight)
        return (w @ self.u.to(w)) @ self.v.to(w)

    def low_rank(self, weight: Tensor) -> LowRank:
        """The same change of one projection as two factors."""
        w = at_least_single(weight)
        return LowRank(w @ self.u.to(w), self.v.to(w))


@dataclass(frozen=True)
class LowRank:
    """W' = W + b a, with b (out, r) and a (r, in)."""

    b: Tensor
    a: Tensor

    def delta(self, weight: Tensor) -> Tensor:
        """(out, in) change; `weight` only tells dtype and device."""
        w = at_least_single(weight)
        return self.b.to(w) @ self.a.to(w)


@dataclass(frozen=True)
class Dense:
    """W' = W + dw; of any shape, for what other tools change may be a convolution or a bias too."""

    dw: Tensor

    def delta(self, weight: Tensor) -> Tensor:
        """The change, of the shape of the weight; `weight` only tells dtype and device."""
        return self.dw.to(at_least_single(weight))


Delta = LowRank | Dense


class Attachable(Protocol):
    """What applying an edit needs to know of its hooks; `excise.edits.hooks.Hook` is one."""

    @property
    def guided(self) -> bool:
        """Whether it changes guidance, which one hook on a model may do at most."""

    def attach(self, family: Family, strength: float) -> Callable[[], None]:
        """Put it on a model; what is returned takes it off."""


class EditLike(Protocol):
    """What applying an edit needs to know of it; `excise.Edit` is one."""

    @property
    def record(self) -> EditRecord:
        """What was asked for, and of which model."""

    @property
    def paths(self) -> list[str]:
        """Every path that it changes, sorted."""

    @property
    def hooks(self) -> tuple[Attachable, ...]:
        """What it puts on modules beside its changes of weights."""

    @property
    def strength(self) -> float:
        """The factor by which it was scaled since it was made."""

    def shape(self, path: str) -> tuple[int, ...]:
        """The shape of the weight that it changes at a path, as far as it knows it: (out, in), or (in,)."""

    def delta(self, path: str, weight: Tensor) -> Tensor:
        """The change of one weight (out, in)."""


def add(one: Delta, two: Delta) -> Delta:
    """Both changes of one weight as one, on the CPU; of low rank where both are."""
    one, two = on_cpu(one), on_cpu(two)
    if isinstance(one, LowRank) and isinstance(two, LowRank):
        return LowRank(torch.cat([one.b, two.b], dim=1), torch.cat([one.a, two.a], dim=0))
    return Dense(_dense(one) + _dense(two))


def added_up(changes: Iterable[Mapping[str, Delta]]) -> dict[str, Delta]:
    """Several changes as one, by path."""
    whole: dict[str, Delta] = {}
    for change in changes:
        for path, delta in change.items():
            whole[path] = add(whole[path], delta) if path in whole else delta
    return whole


def scaled(delta: Delta, strength: float) -> Delta:
    """The change times a number."""
    return LowRank(delta.b * strength, delta.a) if isinstance(delta, LowRank) else Dense(delta.dw * strength)


def on_cpu(delta: Delta) -> Delta:
    """The same change on the CPU, where trained ones are."""
    return Dense(delta.dw.cpu()) if isinstance(delta, Dense) else LowRank(delta.b.cpu(), delta.a.cpu())


def _dense(delta: Delta) -> Tensor:
    return delta.dw if isinstance(delta, Dense) else delta.b @ delta.a


def total_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes that the tensors take."""
    return sum(t.numel() * t.element_size() for t in tensors)


def at_least_single(weight: Tensor) -> Tensor:
    """In single precision, or double where it is."""
    return weight if weight.dtype == torch.float64 else weight.float()
