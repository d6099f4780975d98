"""The check that a class keeps the contract of a method, before the method is used."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from excise.errors import PluginError
from excise.families import FAMILIES
from excise.families.capabilities import CAPABILITIES
from excise.methods.base import Method
from excise.registry import Record
from excise.support.settings import Settings

BASES = "ClosedForm, TextEncoderForm, Trained or Inference"


def contract(name: str, record: Record, loaded: Any) -> Any:
    """The `Contract` of methods in the registry: the class itself; raises as `checked`."""
    checked(name, record, loaded)
    return loaded


def facts(loaded: Any) -> Mapping[str, Any]:
    """What a class that is registered without a record tells about itself: its shape and its needs."""
    if inspect.isclass(loaded) and issubclass(loaded, Method):
        return {"shape": getattr(loaded, "shape", ""), "needs": loaded.needs}
    return {}


def checked(name: str, record: Record, loaded: Any) -> Method[Settings]:
    """Check a registered class member by member, and return an instance.

    Raises:
        PluginError: the class derives from no base class of methods, lacks a member, has one that cannot be called as
            the base class calls it, has settings of another kind, or its record has another shape or an unknown need.
    """
    where = f"the method '{name}' ({record.target})"
    if not (inspect.isclass(loaded) and issubclass(loaded, Method) and hasattr(loaded, "shape")):
        raise PluginError(f"{where} is no class derived from {BASES}; derive it from one of these.")
    for member, expected in _contract(loaded).items():
        _check_member(where, loaded, member, expected)
    _check_settings(where, loaded)
    if record.shape != loaded.shape:
        raise PluginError(
            f"{where} is {loaded.shape} by its base class, but its record has shape='{record.shape}'; expected "
            f"shape='{loaded.shape}'."
        )
    capabilities = set(CAPABILITIES).union(*(family.provides for family in FAMILIES.records().values()))
    unknown = sorted(record.needs - capabilities)
    if unknown:
        raise PluginError(f"{where} needs the unknown capability '{unknown[0]}'; known: {', '.join(CAPABILITIES)}.")
    try:
        method: Method[Settings] = loaded()
    except TypeError as error:
        raise PluginError(f"{where} cannot be created without arguments ({error}); leave `__init__` out.") from error
    return method


def _contract(loaded: type[Method[Settings]]) -> dict[str, Callable[..., Any]]:
    """The abstract functions of the base classes, by name, which show the arguments of each call."""
    open_members: dict[str, Callable[..., Any]] = {}
    for base in reversed(loaded.__mro__):
        for member, value in vars(base).items():
            if getattr(value, "__isabstractmethod__", False):
                open_members[member] = value
    return open_members


def _check_member(where: str, loaded: type[Method[Settings]], member: str, expected: Callable[..., Any]) -> None:
    """Refuse a missing function, and one that does not take the arguments it is called with."""
    arguments = list(inspect.signature(expected).parameters)[1:]
    call = f"{member}({', '.join(arguments)})"
    own = getattr(loaded, member, None)
    if own is None or getattr(own, "__isabstractmethod__", False):
        raise PluginError(f"{where} has no `{member}`; expected a method `{call}`.")
    if not callable(own):
        raise PluginError(f"{where} has a `{member}` that is a {type(own).__name__}; expected a method `{call}`.")
    unbound = not isinstance(inspect.getattr_static(loaded, member), (staticmethod, classmethod))
    if not _takes(own, [*(["self"] if unbound else []), *arguments]):
        taken = ", ".join(list(inspect.signature(own).parameters)[unbound:])
        raise PluginError(f"{where} has `{member}({taken})`; it is called as `{call}`.")


def _takes(function: Callable[..., Any], arguments: Sequence[str]) -> bool:
    """Whether a function can be called with these arguments by position."""
    try:
        inspect.signature(function).bind(*arguments)
    except TypeError:
        return False
    return True


def _check_settings(where: str, loaded: type[Method[Settings]]) -> None:
    """Refuse a `Config` of another class, and presets, a sweep or conditions of settings that it does not have."""
    config = getattr(loaded, "Config", None)
    base = loaded.config_base
    if not (inspect.isclass(config) and issubclass(config, base)):
        raise PluginError(
            f"{where} has no `Config` derived from {base.__name__}; expected a class derived from "
            f"{base.__module__}.{base.__name__}."
        )
    has = f"it has: {', '.join(config.model_fields)}"
    for preset, values in config.presets.items():
        for key in values:
            if key not in config.model_fields:
                raise PluginError(f"{where} has the preset '{preset}' with the unknown setting '{key}'; {has}.")
    for name in config.model_fields:
        for other in (other for way in config.read_beside(name) for other in way):
            if other not in config.model_fields:
                raise PluginError(f"{where} reads '{name}' with the unknown setting '{other}'; {has}.")
    sweep = config.sweep
    if sweep is None:
        return
    if not (isinstance(sweep, tuple) and len(sweep) == 2 and sweep[1]):
        raise PluginError(
            f"{where} has the sweep {sweep!r}; expected the name of a setting and its values, harshest first."
        )
    if sweep[0] not in config.model_fields:
        raise PluginError(f"{where} sweeps the unknown setting '{sweep[0]}'; {has}.")
