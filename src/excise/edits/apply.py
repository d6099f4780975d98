"""What is in force on a model: which edits, and the parameters that they replaced.

Every network (the denoiser, each text encoder) has an account of its own, found by the network itself: pipelines that
share one share what is in force on it. A change is worked out whole before anything is touched, and the account is
written last, so that a failure leaves the model and what is known of it as they were. Hooks are put on modules in the
order in which edits are applied, and belong to the denoiser's account.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from typing import Any
from weakref import WeakKeyDictionary, ref

import torch
from torch import Tensor, nn

from excise.edits.deltas import Delta, EditLike, at_least_single
from excise.edits.hooks import check_one_guided
from excise.errors import ModelError, WrongBaseError
from excise.families.attached import attached
from excise.families.base import Family
from excise.families.networks import (
    BESIDE,
    EIGHT_BITS,
    PLAIN,
    bare,
    check_not_grouped,
    check_plain,
    fused_copies,
    fused_into,
    parameter_in,
    some,
)
from excise.families.partial import Weight, Weights, place, source_of, weights_by_name

SEEN = 64  # values of a weight by which it is known again
COPIED = (
    "It seems to be a copy of a model with an edit in force, which holds the edited weights and not the original ones; "
    "copy a model before an edit is applied."
)
HOOKS_COPIED = (
    "this model is a copy of one to which an edit is applied, and holds that edit's hooks, which nothing can remove "
    "from the copy; copy a model before an edit is applied, or load it again."
)
_numbers = count()


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
class _Placed:
    """What a layer changes in one network: paths in the network, and the same in the edit."""

    layer: Layer
    paths: Mapping[str, str]


@dataclass(frozen=True)
class _Replaced:
    """A parameter that was replaced, and some values of what was put in its place."""

    original: nn.Parameter
    seen: Tensor


@dataclass
class _Account:
    """Of one network: what is in force, in order, and what it replaced, by path."""

    placed: list[_Placed] = field(default_factory=list)
    replaced: dict[str, _Replaced] = field(default_factory=dict)


@dataclass
class _Change:
    """What is to become of one network: parameters to set, by module and name, and its next account."""

    account: _Account
    after: _Account
    parameters: dict[tuple[Any, str], nn.Parameter] = field(default_factory=dict)


_accounts: WeakKeyDictionary[nn.Module, _Account] = WeakKeyDictionary()


def networks(family: Family) -> dict[str, Any]:
    """What edits go into, without wrappers: the text encoders by their names, the denoiser under ""."""
    return {"": bare(family.denoiser), **{name: bare(e) for name, e in family.text_encoders.items()}}


def put(edit: EditLike, family: Family, strength: float) -> None:
    """Bring an edit into force on top of what is; nothing is changed where that fails.

    Raises:
        ModelError: a weight cannot be replaced, or was written to since, a second edit would change guidance, or the
            model is a copy with hooks.
        WrongBaseError: a hook is not for this model.
    """
    if hooks_copied(family):
        raise ModelError(HOOKS_COPIED)
    check_one_guided(hook for e in (*(layer.edit for layer in layers(family)), edit) for hook in e.hooks)
    parts = networks(family)
    placed = _placed(edit, parts, strength)
    changes = [_planned(parts[name], [*_account(parts[name]).placed, new], name) for name, new in placed.items()]
    layer = next(iter(placed.values())).layer
    layer.attach(family)
    try:
        _make(changes)
    except BaseException:
        layer.detach()
        raise


@contextmanager
def alone(edit: EditLike, family: Family) -> Iterator[None]:
    """An edit in force for a while without any other; afterwards everything is as it was, the very parameters too.

    Raises:
        ModelError: a weight cannot be replaced, or was written to since; nothing is changed.
    """
    parts = networks(family)
    placed = _placed(edit, parts, 1.0)
    changes = [_planned(network, [placed[n]] if n in placed else [], n) for n, network in parts.items()]
    parameters = [(module, key, module._parameters[key]) for c in changes for module, key in c.parameters]
    accounts = [(c.account, c.account.placed, c.account.replaced) for c in changes]
    own, others = next(iter(placed.values())).layer, layers(family)
    for layer in others:
        layer.detach()
    try:
        own.attach(family)
        _make(changes)
        yield
    finally:
        own.detach()
        for layer in others:
            layer.attach(family)
        for module, key, parameter in parameters:
            module._parameters[key] = parameter
        for account, before, replaced in accounts:
            account.placed, account.replaced = before, replaced


def _placed(edit: EditLike, parts: Mapping[str, Any], strength: float) -> dict[str, _Placed]:
    """A new layer, by the networks that it changes; one with hooks, or that changes nothing, is the denoiser's too."""
    paths: dict[str, dict[str, str]] = {}
    for path in edit.paths:
        name, rest = split_path(path, parts)
        paths.setdefault(name, {})[rest] = path
    if edit.hooks or not paths:
        paths.setdefault("", {})
    layer = Layer(edit, strength, next(_numbers), {name: ref(parts[name]) for name in paths})
    return {name: _Placed(layer, theirs) for name, theirs in paths.items()}


def take(edit: EditLike, parts: Mapping[str, Any]) -> None:
    """Take the last application of an edit off the networks that it is in force on.

    Raises:
        WrongBaseError: it is in force on none.
        ModelError: a weight cannot be replaced, or was written to since, or the edit is in force on a network that is
            not among these; it stays in force.
    """
    here = [p.layer for network in parts.values() for p in _account(network).placed if p.layer.edit is edit]
    if not here:
        hint = f" {COPIED}" if copied(parts) else ""
        raise WrongBaseError(f"this edit is not applied to this model, so there is nothing to remove.{hint}")
    last = max(here, key=lambda layer: layer.number)
    for name, network in last.networks.items():
        if network() is not None and network() is not parts.get(name):
            raise ModelError(
                f"this edit is in force on a '{name or 'denoiser'}' too that is not the pipeline's now, where it would "
                "stay; put that back into the pipeline and remove the edit then."
            )
    changes = []
    for name, network in parts.items():
        placed = _account(network).placed
        if any(p.layer is last for p in placed):
            changes.append(_planned(network, [p for p in placed if p.layer is not last], name))
    _make(changes)
    last.detach()


def layers(family: Family) -> list[Layer]:
    """What is applied to a model now, in the order of applying."""
    placed = {p.layer.number: p.layer for network in networks(family).values() for p in _account(network).placed}
    return [placed[n] for n in sorted(placed)]


def copied(parts: Mapping[str, Any]) -> bool:
    """Whether a network without edits holds what one was given in another network, as a deep copy of that does."""
    return any(
        _holds(network, *next(iter(account.replaced.items())))
        for network in parts.values()
        if not _account(network).replaced
        for account in list(_accounts.values())
        if account.replaced
    )


def hooks_copied(family: Family) -> bool:
    """Whether the denoiser holds hooks of an edit that is not applied to it, as a deep copy of a denoiser does."""
    return any(attached(family.denoiser)) and not any(layer.edit.hooks for layer in layers(family))


def _holds(network: nn.Module, rest: str, replaced: _Replaced) -> bool:
    with suppress(AttributeError):
        module, key = parameter_in(network, rest)
        now = module._parameters[key]
        return not now.is_meta and now.shape == replaced.original.shape and _known(replaced.seen, now)
    return False


def original_weights(family: Family, paths: Iterable[str] | None = None) -> Weights:
    """Weights by module path as they are without any edit; by default those that read text.

    One that is not in memory is read from its file each time that it is asked for. Of `paths`, what the model does not
    have is left out.

    Raises:
        ModelError: one is offloaded, quantised or kept in eight bits, or a projection has no weight of its own.
    """
    if paths is None:
        paths = [p.path for p in family.projections()]
        whole = original_weights(family, paths)
        if missing := [path for path in paths if path not in whole]:
            raise ModelError(
                f"'{missing[0]}' has no weight that can be read or replaced, as a quantised layer has none; do this on "
                f"the model as it is loaded without that, and quantise it afterwards; {BESIDE}"
            )
        return whole
    parts, weights = networks(family), dict[str, Weight]()
    for path in paths:
        name, rest = split_path(path, parts)
        with suppress(AttributeError):
            module, key = parameter_in(parts[name], rest)
            weights[path] = _original(parts[name], rest, module._parameters[key], path)
    return Weights(weights)


def _original(network: nn.Module, rest: str, now: nn.Parameter, path: str) -> Weight:
    """A parameter as it is without any edit, where and in the precision in which it is now."""
    if now.is_meta and source_of(network) is not None:
        return Weight.unread(network, rest, now)
    check_plain(now, path)
    replaced = _account(network).replaced.get(rest)
    return Weight.known(now.detach() if replaced is None else replaced.original.detach().to(now))


def original_text_weights(family: Family) -> Weights:
    """Everything between the words and the projections, as it is without any edit.

    Raises:
        ModelError: a weight is offloaded, quantised or kept in eight bits.
    """
    instead = {}
    for network in networks(family).values():
        for rest, replaced in _account(network).replaced.items():
            module, key = parameter_in(network, rest)
            instead[id(module._parameters[key])] = replaced.original
    weights = {}
    for name, weight in weights_by_name(family.text_encoder_weights, networks(family).values()).items():
        if weight.in_memory:
            check_plain(weight.like, name)
            weight = Weight.known(instead.get(id(weight.like), weight.like).detach().to(weight.like))
        weights[name] = weight
    return Weights(weights)


@contextmanager
def temporarily_applied(family: Family, deltas: Mapping[str, Delta]) -> Iterator[None]:
    """Add deltas to weights of any network inside the block, on top of the edits that are applied."""
    parts = networks(family)
    places = {}
    for path in deltas:
        name, rest = split_path(path, parts)
        place(parts[name], [rest])
        places[path] = parameter_in(parts[name], rest)
    before = {path: module._parameters[key] for path, (module, key) in places.items()}
    try:
        for path, delta in deltas.items():
            (module, key), w = places[path], before[path]
            changed = (at_least_single(w) + delta.delta(w)).to(w).detach()
            setattr(module, key, nn.Parameter(changed, requires_grad=w.requires_grad))
        yield
    finally:
        for path, (module, key) in places.items():
            setattr(module, key, before[path])


def split_path(path: str, parts: Mapping[str, Any]) -> tuple[str, str]:
    """A path of an edit as the name of a network and the path in there."""
    name, _, rest = path.partition(".")
    return (name, rest) if name in parts else ("", path)


def _account(network: nn.Module) -> _Account:
    return _accounts.setdefault(network, _Account())


@torch.inference_mode(False)  # whose tensors could never be trained or written to
@torch.no_grad()
def _planned(network: nn.Module, placed: Sequence[_Placed], name: str) -> _Change:
    """Every touched parameter of a network anew, from its original and what is to be in force."""
    account = _account(network)
    change = _Change(account, _Account(list(placed)))
    wanted = {rest for p in placed if p.layer.strength != 0 for rest in p.paths}
    if touched := sorted(wanted | set(account.replaced)):
        check_not_grouped(network)
    holding = fused_into(network) if touched else set()
    place(network, touched)
    for rest in touched:
        module, key = parameter_in(network, rest)
        now, before = module._parameters[key], account.replaced.get(rest)
        _check_writable(now, before, f"{name}.{rest}" if name else rest, exactly=module in holding)
        original = now if before is None else before.original
        if rest not in wanted:
            # It has moved with the model, or it is the very one.
            same = (original.device, original.dtype) == (now.device, now.dtype)
            change.parameters[module, key] = original if same else nn.Parameter(original.to(now), now.requires_grad)
            continue
        here = original.detach().to(now.device)
        weight = at_least_single(here)
        for p in placed:
            if p.layer.strength != 0 and rest in p.paths:
                weight = weight + p.layer.strength * p.layer.edit.delta(p.paths[rest], here)
        made = nn.Parameter(weight.to(now.dtype), requires_grad=now.requires_grad)
        change.parameters[module, key] = made
        change.after.replaced[rest] = _Replaced(original, some(made, SEEN))
    _copy_fused(network, change)
    return change


def _copy_fused(network: nn.Module, change: _Change) -> None:
    """Make fused copies of what is to change anew."""
    changed = {module for module, _ in change.parameters}
    for layer, name, parts in fused_copies(network) if changed else ():
        if changed.isdisjoint(parts):
            continue
        copy = layer._modules[name]
        for key, now in copy._parameters.items():
            if now is not None:
                whole = torch.cat([change.parameters.get((p, key), p._parameters[key]).detach().to(now) for p in parts])
                change.parameters[copy, key] = nn.Parameter(whole, requires_grad=now.requires_grad)


def _make(changes: Sequence[_Change]) -> None:
    """Set what was worked out; where that fails, as it was."""
    done: list[tuple[Any, str, Any]] = []
    try:
        for change in changes:
            for (module, key), parameter in change.parameters.items():
                done.append((module, key, module._parameters[key]))
                setattr(module, key, parameter)
    except BaseException:
        for module, key, before in reversed(done):
            module._parameters[key] = before
        raise
    for change in changes:
        change.account.placed, change.account.replaced = change.after.placed, change.after.replaced


def _check_writable(now: Any, before: _Replaced | None, path: str, exactly: bool) -> None:
    """Refuse a parameter that cannot be replaced, or that holds another change which would be lost.

    Args:
        exactly: a LoRA is fused into it now, which may be as small as the rounding that one taken out leaves.

    Raises:
        ModelError: it is so.
    """
    check_plain(now, path, PLAIN if before is None else (*PLAIN, *EIGHT_BITS))
    if before is not None and not _known(before.seen, now, exactly):
        raise ModelError(
            f"'{path}' was written to while an edit was in force (a LoRA fused into it, or weights loaded over it), "
            "which would be lost; take that back first (pipe.unfuse_lora()), or load the model again."
        )


def _known(seen: Tensor, now: Tensor, exactly: bool = False) -> bool:
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
