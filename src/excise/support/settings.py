"""Settings of methods and attacks: checked, with presets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from excise.errors import SettingError

OFFICIAL = "official"


class Settings(BaseModel):
    """Settings that every method has; each method adds its own."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Values of settings by concept kind, "canvas" for the built-in models and "official" for a published program."""
    sweep: ClassVar[tuple[str, tuple[float, ...]] | None] = None
    """The setting that trades erasing against retaining, with values to try, harshest first; None if there is none."""

    anchor: str = Field("", description="What a target without its own anchor is read as; empty for nothing at all.")


SettingsT = TypeVar("SettingsT", bound=Settings)


def configure(
    config: type[SettingsT], method: str, settings: Mapping[str, Any], kind: str, *, default: str | None = None
) -> SettingsT:
    """Settings over a preset over the defaults.

    The preset is the one named by `preset`, else `default`, else that of the concept kind. `preset="official"`, the
    published program's own recipe, is "official-<kind>" where a method has one for the kind.

    Raises:
        SettingError: an unknown key (the nearest is named), an unknown preset, a wrong type or range.
    """
    import difflib

    given = dict(settings)
    preset = given.pop("preset", default or kind)
    if preset == OFFICIAL and f"{OFFICIAL}-{kind}" in config.presets:
        preset = f"{OFFICIAL}-{kind}"
    if preset not in {*config.presets, default or kind, "default"}:
        has = f"has: {', '.join(sorted(config.presets))}" if config.presets else "has none"
        raise SettingError(f"{method} has no preset '{preset}'; it {has}.")
    for key in given:
        if key not in config.model_fields:
            near = difflib.get_close_matches(key, config.model_fields, n=1)
            hint = f"Did you mean '{near[0]}'? " if near else ""
            raise SettingError(
                f"{method} has no setting '{key}'. {hint}It has: {', '.join(config.model_fields)}. "
                f"See: excise methods {method}"
            )
    try:
        return config.model_validate({**config.presets.get(preset, {}), **given})
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise SettingError(
            f"{method}: setting '{key}' was {first['input']!r}; {first['msg'][0].lower() + first['msg'][1:]}. "
            f"See: excise methods {method}"
        ) from error
