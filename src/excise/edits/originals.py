"""The weights of a model as they are without any edit, whatever is in force on it."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

from torch import nn

from excise.edits.accounts import account_of, networks, split_path
from excise.errors import ModelError
from excise.families.base import Family
from excise.families.networks import check_plain, parameter_in
from excise.families.partial import Weight, Weights, source_of, weights_by_name
from excise.families.quantised import BESIDE


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
    replaced = account_of(network).replaced.get(rest)
    return Weight.known(now.detach() if replaced is None else replaced.original.detach().to(now))


def original_text_weights(family: Family) -> Weights:
    """Everything between the words and the projections, as it is without any edit.

    Raises:
        ModelError: a weight is offloaded, quantised or kept in eight bits.
    """
    instead = {}
    for network in networks(family).values():
        for rest, replaced in account_of(network).replaced.items():
            module, key = parameter_in(network, rest)
            instead[id(module._parameters[key])] = replaced.original
    weights = {}
    for name, weight in weights_by_name(family.text_encoder_weights, networks(family).values()).items():
        if weight.in_memory:
            check_plain(weight.like, name)
            weight = Weight.known(instead.get(id(weight.like), weight.like).detach().to(weight.like))
        weights[name] = weight
    return Weights(weights)
