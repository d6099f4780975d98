"""Values that tests give to the settings of methods, and which of them a method reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin

from pydantic import ValidationError

from excise.methods import settings_of
from excise.support.settings import Settings, idle_settings, merge_settings


def those_read(method: str, settings: Mapping[str, Any], **given: Any) -> dict[str, Any]:
    """Those of some settings that a method has and reads beside others."""
    config = settings_of(method)
    own = {name: value for name, value in settings.items() if name in config.model_fields}
    idle = idle_settings(config, method, {**own, **given}, "object")
    return {name: value for name, value in own.items() if name not in idle}


def values_of(method: str, name: str) -> list[Any]:
    """Some values that a setting takes."""
    config = settings_of(method)
    given = config.model_fields[name].annotation
    parts = [given] if get_origin(given) is Literal else [given, *get_args(given)]
    listed = [value for part in parts if get_origin(part) is Literal for value in get_args(part)]
    tried = listed or [None, False, True, 0, 1, 2, 3, 0.25, 0.5, "", "a", "auto", "worst:2"]
    taken = []
    for value in tried:
        try:
            made = getattr(config(**{name: value}), name)
        except ValidationError:
            continue
        if not any(type(made) is type(other) and made == other for other in taken):
            taken.append(made)
    return taken


def other_than_usual(method: str, name: str, given: dict[str, Any]) -> Any:
    """A value of a setting that the settings beside it do not have anyway."""
    usual = getattr(configured(method, given), name)
    return next(value for value in values_of(method, name) if value != usual)


def configured(method: str, given: dict[str, Any]) -> Settings:
    return merge_settings(settings_of(method), method, given, "object")
