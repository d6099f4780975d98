"""The check that a class keeps the contract of a method, before it is used."""

from __future__ import annotations

import inspect
from typing import Any

from excise.errors import PluginError
from excise.methods.base import Method
from excise.registry import Record
from excise.support.settings import Settings

BASES = "ClosedForm, TextEncoderForm, Trained or Inference"


def checked(name: str, record: Record, loaded: Any) -> Method[Settings]:
    """An instance of a method's class.

    Raises:
        PluginError: the class derives from none of the bases, lacks a member, or has another shape than its record.
    """
    here = f"the method '{name}' ({record.target})"
    if not (inspect.isclass(loaded) and issubclass(loaded, Method)):
        raise PluginError(f"{here} is no class derived from {BASES}; derive it from one of these.")
    missing = sorted(loaded.__abstractmethods__)
    if missing:
        signature = inspect.signature(getattr(loaded, missing[0]))
        raise PluginError(f"{here} has no `{missing[0]}`; expected a method `{missing[0]}{signature}`.")
    config = getattr(loaded, "Config", None)
    if not (inspect.isclass(config) and issubclass(config, Settings)):
        raise PluginError(f"{here} has no `Config`; expected a class derived from excise's Settings.")
    if record.shape != loaded.shape:
        raise PluginError(
            f"{here} is {loaded.shape} by its base class, and its record says shape='{record.shape}'; expected "
            f"shape='{loaded.shape}'."
        )
    method: Method[Settings] = loaded()
    return method
