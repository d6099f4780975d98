"""Settings of methods and attacks: typed, checked, with presets."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_serializer,
)
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from excise.errors import SettingError
from excise.support.reading import Way, declared, open_ways, unmet, ways_in_words, why_idle

OFFICIAL = "official"
LARGEST = 1e30  # number that a setting takes; single precision ends at 3e38, and settings are multiplied
OMIT_DEFAULT: dict[str, Any] = {"omit_default": True}
"""`json_schema_extra` of a setting that is written down only where it is not the default.

A setting that a method gains later is marked so: records of requests that do not use it stay the same to the byte. The
mark may stand beside others: `OMIT_DEFAULT | read_with(by="images")`.
"""


class Settings(BaseModel):
    """Base class of a method's settings: the fields that every method has. A method adds its own in a subclass.

    `presets` maps a preset's name to the values that it changes.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Values of settings by concept kind, "canvas" for the built-in models or the name of one, and "official" for a
    published program."""
    sweep: ClassVar[tuple[str, tuple[float, ...]] | None] = None
    """The setting that trades erasing against retaining, with values to try, harshest first; None if there is none."""
    unbounded: ClassVar[frozenset[str]] = frozenset()
    """Numbers that may be infinite, as a limit that is none."""
    unread: ClassVar[frozenset[str]] = frozenset()
    """Settings of a base class that the method has no use for."""

    @classmethod
    def behind(cls, preset: Mapping[str, Any]) -> dict[str, Any]:
        """Settings over those of a kind's preset, in models where the tokens behind a subject tell it too."""
        return {}

    anchor: str = Field("", description="Anchor of concepts that name none; empty for the empty prompt.")

    @field_validator("*")
    @classmethod
    def _reckoned_with(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse numbers that single precision cannot reckon with: what comes of them is not finite."""
        numbers = [v for v in (value if isinstance(value, tuple) else [value]) if isinstance(v, float)]
        if any(math.isnan(v) or (abs(v) > LARGEST and info.field_name not in cls.unbounded) for v in numbers):
            raise PydanticCustomError(
                "reckoned_with", "Input should be a number between -{most} and {most}", {"most": f"{LARGEST:g}"}
            )
        return value

    @model_serializer(mode="wrap")
    def _without_marked_defaults(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out the settings that are marked OMIT_DEFAULT and have their default."""
        fields = type(self).model_fields
        return {
            name: value
            for name, value in write(self).items()
            if not (_omits_default(fields[name]) and getattr(self, name) == fields[name].default)
        }

    @classmethod
    def read_beside(cls, name: str) -> tuple[Way, ...]:
        """Return the ways in which a setting is read (`read_with`), by its nearest declaration; none for always.

        Those settings of other methods that this one never reads have their defaults.
        """
        fixed = {other: cls.model_fields[other].default for other in cls.unread & cls.model_fields.keys()}
        for base in cls.__mro__:
            if issubclass(base, Settings) and name in base.model_fields:
                ways = declared(base.model_fields[name].json_schema_extra)
                if ways is not None:
                    return open_ways(ways, fixed)
        return ()

    @classmethod
    def when_read(cls, name: str) -> str:
        """Return when a setting is read: "always", "never", or "with" values of others."""
        ways = cls.read_beside(name)
        return "never" if name in cls.unread else f"with {ways_in_words(ways)}" if ways else "always"

    def reads(self, name: str) -> bool:
        """Whether a setting is read, as the others are."""
        return name not in self.unread and not unmet(self.read_beside(name), self)


def _omits_default(field: FieldInfo) -> bool:
    extra = field.json_schema_extra
    return isinstance(extra, dict) and OMIT_DEFAULT.items() <= extra.items()


SettingsT = TypeVar("SettingsT", bound=Settings)


@dataclass(frozen=True)
class Usual:
    """What a model makes usual of a method's settings.

    Attributes:
        presets: names of the presets for it, the nearest first; where the method has none of them, its defaults apply.
        behind: whether the tokens behind a subject tell it too (`Settings.behind`).
    """

    presets: tuple[str, ...] = ()
    behind: bool = False


def configure(
    config: type[SettingsT], method: str, settings: Mapping[str, Any], kind: str, usual: Usual = Usual()
) -> SettingsT:
    """Return an instance of `config`: the given settings, then those of a preset, then the defaults.

    The preset is `settings["preset"]`, else the first of the model's that the method has, else the one named like the
    concept kind, with what the model changes of that. "official", the recipe of the method's published program, means
    "official-<kind>" where the method has that.

    A setting that the user gave must be one that the method reads beside the others. One whose value changes nothing is
    taken all the same, so that settings may be given in full, as a record has them; and so are all values of presets
    and defaults, of which another setting may make some idle.

    Args:
        config: the settings class of the method.
        method: its name, for messages.
        settings: what the user set, by field, with an optional "preset".
        kind: of the concepts ("object", "style", ...).
        usual: what the model makes usual.

    Raises:
        SettingError: an unknown key (the nearest is named), an unknown preset, a wrong type or range, a value that
            would not be read.
    """
    made = merge_settings(config, method, settings, kind, usual)
    for sentence in idle_settings(config, method, settings, kind, usual).values():
        raise SettingError(sentence)
    return made


def idle_settings(
    config: type[SettingsT], method: str, settings: Mapping[str, Any], kind: str, usual: Usual = Usual()
) -> dict[str, str]:
    """Return the given settings that `configure` refuses, with a sentence on each; it takes the same arguments.

    They are those that are not read, with another value than the preset's or the default.

    Raises:
        SettingError: as `merge_settings`.
    """
    made = merge_settings(config, method, settings, kind, usual)
    without = {name: value for name, value in settings.items() if name == "preset"}
    plain = merge_settings(config, method, without, kind, usual)
    told = {}
    for name in config.model_fields:
        value = getattr(made, name)
        if name not in settings or made.reads(name) or value == getattr(plain, name):
            continue
        if name in config.unread:
            why = f"this method does not read '{name}', which was {value!r}; leave {name} out"
        else:
            why = why_idle(name, config.read_beside(name), made)
        told[name] = f"{method}: {why}. See: excise methods {method}"
    return told


def merge_settings(
    config: type[SettingsT], method: str, settings: Mapping[str, Any], kind: str, usual: Usual = Usual()
) -> SettingsT:
    """Return what `configure` does, idle settings or not.

    Raises:
        SettingError: an unknown key (the nearest is named), an unknown preset, a wrong type or range.
    """
    import difflib

    values = dict(settings)
    own = next((name for name in usual.presets if name in config.presets), usual.presets[-1] if usual.presets else kind)
    preset = values.pop("preset", own)
    if preset == OFFICIAL and f"{OFFICIAL}-{kind}" in config.presets:
        preset = f"{OFFICIAL}-{kind}"
    if preset not in {*config.presets, own, "default"}:
        has = f"has: {', '.join(sorted(config.presets))}" if config.presets else "has none"
        raise SettingError(f"{method} has no preset '{preset}'; it {has}.")
    chosen = dict(config.presets.get(preset, {}))
    if usual.behind and not usual.presets and "preset" not in settings:
        chosen |= config.behind(chosen)
    for key in values:
        if key not in config.model_fields:
            near = difflib.get_close_matches(key, config.model_fields, n=1)
            hint = f"Did you mean '{near[0]}'? " if near else ""
            raise SettingError(
                f"{method} has no setting '{key}'. {hint}It has: {', '.join(config.model_fields)}. "
                f"See: excise methods {method}"
            )
    try:
        return config.model_validate({**chosen, **values})
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise SettingError(
            f"{method}: setting '{key}' was {first['input']!r}; {first['msg'][0].lower() + first['msg'][1:]}. "
            f"See: excise methods {method}"
        ) from error
