"""What is in force on a model: which edits, and the parameters that they replaced.

Every network (the denoiser, each text encoder) has an account of its own, found by the network itself: pipelines that
share one share what is in force on it. Hooks are put on modules in the order in which edits are applied, and belong to
the denoiser's account.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary, ref

import torch
from torch import Tensor, nn

from excise.edits.deltas import EditLike
from excise.families.attached import attached
from excise.families.base import Family
from excise.families.networks import EIGHT_BITS, bare, parameter_in, some

SEEN = 64  # values of a weight by which it is known again
COPIED = (
    "It seems to be a copy of a model with an edit in force, which holds the edited weights and not the original ones; "
    "copy a model before an edit is applied."
)
HOOKS_COPIED = (
    "this model is a copy of one to which an edit is applied, and holds that edit's hooks, which nothing can remove "
    "from the copy; copy a model before an edit is applied, or load it again."
)


@dataclass(frozen=True, eq=False)
class Layer:
    """One application of an edit.

    Attributes:
        number: tells which came first.
        networks: what it was brought into, by name.
        removers: each takes one of its hooks off the model.
    """

    edit: EditLike
    strength: float
    number: int
    networks: Mapping[str, ref[nn.Module]]
    removers: list[Callable[[], None]] = field(default_factory=list)

    def attach(self, family: Family) -> None:
        """Put its hooks on a model; where one cannot be put there, none stays.

        Raises:
            WrongBaseError, ModelError: a hook is not for this model.
        """
        try:
            self.removers.extend(hook.attach(family, self.strength) for hook in self.edit.hooks)
        except BaseException:
            self.detach()
            raise

    def detach(self) -> None:
        """Take its hooks off."""
        while self.removers:
            self.removers.pop()()


@dataclass(frozen=True)
class Placed:
    """What a layer changes in one network: paths in the network, and the same in the edit."""

    layer: Layer
    paths: Mapping[str, str]


@dataclass(frozen=True)
class Replaced:
    """A parameter that was replaced, and some values of what was put in its place."""

    original: nn.Parameter
    seen: Tensor


@dataclass
class Account:
    """Of one network: what is in force, in order, and what it replaced, by path."""

    placed: list[Placed] = field(default_factory=list)
    replaced: dict[str, Replaced] = field(default_factory=dict)


_accounts: WeakKeyDictionary[nn.Module, Account] = WeakKeyDictionary()


def networks(family: Family) -> dict[str, Any]:
    """What edits go into, without wrappers: the text encoders by their names, the denoiser under ""."""
    return {"": bare(family.denoiser), **{name: bare(e) for name, e in family.text_encoders.items()}}


def account_of(network: nn.Module) -> Account:
    """The account of a network; a new, empty one where nothing was ever applied to it."""
    return _accounts.setdefault(network, Account())


def layers(family: Family) -> list[Layer]:
    """What is applied to a model now, in the order of applying."""
    placed = {p.layer.number: p.layer for network in networks(family).values() for p in account_of(network).placed}
    return [placed[n] for n in sorted(placed)]


def copied(parts: Mapping[str, Any]) -> bool:
    """Whether a network without edits holds what one was given in another network, as a deep copy of that does."""
    return any(
        _holds(network, *next(iter(account.replaced.items())))
        for network in parts.values()
        if not account_of(network).replaced
        for account in list(_accounts.values())
        if account.replaced
    )


def hooks_copied(family: Family) -> bool:
    """Whether the denoiser holds hooks of an edit that is not applied to it, as a deep copy of a denoiser does."""
    return any(attached(family.denoiser)) and not any(layer.edit.hooks for layer in layers(family))


def _holds(network: nn.Module, rest: str, replaced: Replaced) -> bool:
    with suppress(AttributeError):
        module, key = parameter_in(network, rest)
        now = module._parameters[key]
        return not now.is_meta and now.shape == replaced.original.shape and known(replaced.seen, now)
    return False


def split_path(path: str, parts: Mapping[str, Any]) -> tuple[str, str]:
    """A path of an edit as the name of a network and the path in there."""
    name, _, rest = path.partition(".")
    return (name, rest) if name in parts else ("", path)


def known(seen: Tensor, now: Tensor, exactly: bool = False) -> bool:
    """Whether a parameter still has the values it was given, but for the precisions it may have gone through."""
    there = some(now, SEEN)
    if there.shape != seen.shape:
        return False
    passed = (now.dtype, torch.float16, torch.bfloat16, *EIGHT_BITS)
    if any(torch.allclose(seen.to(d).float(), there, rtol=0, atol=0, equal_nan=True) for d in passed):
        return True
    if exactly:
        return False
    # A LoRA that was fused and taken out again leaves rounding behind.
    rounding = max(1e-6, torch.finfo(now.dtype).eps / 2)
    return float((there - seen).norm()) <= rounding * float(seen.norm())
