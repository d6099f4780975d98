"""Bringing edits into force on a model and taking them off again.

A change is worked out whole before anything is touched, and the account of what is in force is written last, so that a
failure leaves the model and what is known of it as they were.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any
from weakref import ref

import torch
from torch import nn

from excise.edits.accounts import (
    COPIED,
    HOOKS_COPIED,
    SEEN,
    Account,
    Layer,
    Placed,
    Replaced,
    account_of,
    copied,
    hooks_copied,
    known,
    layers,
    networks,
    split_path,
)
from excise.edits.deltas import Delta, EditLike, at_least_single
from excise.edits.hooks import check_one_guided
from excise.errors import ModelError, WrongBaseError
from excise.families.base import Family
from excise.families.networks import (
    EIGHT_BITS,
    PLAIN,
    check_not_grouped,
    check_plain,
    fused_copies,
    fused_into,
    parameter_in,
    some,
)
from excise.families.partial import place

_numbers = count()


@dataclass
class _Change:
    """What is to become of one network: parameters to set, by module and name, and its next account."""

    account: Account
    after: Account
    parameters: dict[tuple[Any, str], nn.Parameter] = field(default_factory=dict)


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
    changes = [_planned(parts[name], [*account_of(parts[name]).placed, new], name) for name, new in placed.items()]
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


def _placed(edit: EditLike, parts: Mapping[str, Any], strength: float) -> dict[str, Placed]:
    """A new layer, by the networks that it changes; one with hooks, or that changes nothing, is the denoiser's too."""
    paths: dict[str, dict[str, str]] = {}
    for path in edit.paths:
        name, rest = split_path(path, parts)
        paths.setdefault(name, {})[rest] = path
    if edit.hooks or not paths:
        paths.setdefault("", {})
    layer = Layer(edit, strength, next(_numbers), {name: ref(parts[name]) for name in paths})
    return {name: Placed(layer, theirs) for name, theirs in paths.items()}


def take(edit: EditLike, parts: Mapping[str, Any]) -> None:
    """Take the last application of an edit off the networks that it is in force on.

    Raises:
        WrongBaseError: it is in force on none.
        ModelError: a weight cannot be replaced, or was written to since, or the edit is in force on a network that is
            not among these; it stays in force.
    """
    here = [p.layer for network in parts.values() for p in account_of(network).placed if p.layer.edit is edit]
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
        placed = account_of(network).placed
        if any(p.layer is last for p in placed):
            changes.append(_planned(network, [p for p in placed if p.layer is not last], name))
    _make(changes)
    last.detach()


@contextmanager
def temporarily_applied(
    family: Family, deltas: Mapping[str, Delta]
) -> Iterator[Callable[[], AbstractContextManager[None]]]:
    """Add deltas to weights of any network inside the block, on top of the edits that are applied.

    What the block is given makes a block inside it, in which the weights are as they were before.
    """
    parts = networks(family)
    places = {}
    for path in deltas:
        name, rest = split_path(path, parts)
        place(parts[name], [rest])
        places[path] = parameter_in(parts[name], rest)
    before = {path: module._parameters[key] for path, (module, key) in places.items()}

    @contextmanager
    def lifted() -> Iterator[None]:
        now = {path: module._parameters[key] for path, (module, key) in places.items()}
        try:
            for path, (module, key) in places.items():
                setattr(module, key, before[path])
            yield
        finally:
            for path, (module, key) in places.items():
                setattr(module, key, now[path])

    try:
        for path, delta in deltas.items():
            (module, key), w = places[path], before[path]
            changed = (at_least_single(w) + delta.delta(w)).to(w).detach()
            setattr(module, key, nn.Parameter(changed, requires_grad=w.requires_grad))
        yield lifted
    finally:
        for path, (module, key) in places.items():
            setattr(module, key, before[path])


@torch.inference_mode(False)  # whose tensors could never be trained or written to
@torch.no_grad()
def _planned(network: nn.Module, placed: Sequence[Placed], name: str) -> _Change:
    """Every touched parameter of a network anew, from its original and what is to be in force."""
    account = account_of(network)
    change = _Change(account, Account(list(placed)))
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
        change.after.replaced[rest] = Replaced(original, some(made, SEEN))
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


def _check_writable(now: Any, before: Replaced | None, path: str, exactly: bool) -> None:
    """Refuse a parameter that cannot be replaced, or that holds another change which would be lost.

    Args:
        exactly: a LoRA is fused into it now, which may be as small as the rounding that one taken out leaves.

    Raises:
        ModelError: it is so.
    """
    check_plain(now, path, PLAIN if before is None else (*PLAIN, *EIGHT_BITS))
    if before is not None and not known(before.seen, now, exactly):
        raise ModelError(
            f"'{path}' was written to while an edit was in force (a LoRA fused into it, or weights loaded over it), "
            "which would be lost; take that back first (pipe.unfuse_lora()), or load the model again."
        )
