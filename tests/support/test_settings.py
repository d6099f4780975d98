"""Settings: which preset applies where the user names none, and the numbers that none takes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar

import pytest

from excise.errors import SettingError
from excise.families.built_in import presets_of
from excise.methods import METHODS, settings_of
from excise.support.settings import Settings, Usual, configure


class Own(Settings):
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "style": {"anchor": "art"},
        "canvas": {"anchor": "any built-in model"},
        "canvas-flux": {"anchor": "this one"},
    }


@pytest.mark.parametrize(
    ("model", "settings", "anchor"),
    [
        ("canvas-flux", {}, "this one"),
        ("canvas-sd", {}, "any built-in model"),
        ("canvas-flux", {"preset": "style"}, "art"),
        ("canvas-flux", {"preset": "canvas"}, "any built-in model"),
        ("canvas-flux", {"anchor": "given"}, "given"),
        ("another/model", {}, "art"),
        (None, {}, "art"),
    ],
)
def test_the_preset_nearest_to_the_model_applies(model, settings, anchor):
    assert configure(Own, "own", settings, "style", Usual(presets_of(model))).anchor == anchor


def test_a_built_in_model_without_a_preset_has_the_defaults():
    assert configure(Settings, "own", {}, "style", Usual(("canvas-sd", "canvas"))).anchor == ""


def test_an_unknown_preset_is_refused():
    with pytest.raises(SettingError, match="no preset 'canvas-fulx'; it has: canvas, canvas-flux, style"):
        configure(Own, "own", {"preset": "canvas-fulx"}, "style", Usual(("canvas-flux", "canvas")))


NUMBERS = [
    (method, name)
    for method in METHODS.records()
    for name, field in settings_of(method).model_fields.items()
    if "float" in str(field.annotation)
]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e31])
def test_no_setting_takes_a_number_that_nothing_can_be_reckoned_with(value):
    assert len(NUMBERS) > 100
    for method, name in NUMBERS:
        if name in settings_of(method).unbounded and value == value:
            continue
        with pytest.raises(SettingError, match=re.escape(f"setting '{name}' was {value!r}; input should be ")):
            configure(settings_of(method), method, {name: value}, "object")


def test_a_limit_may_be_none():
    capped = {"contrast": "ga", "cap": float("inf")}
    assert configure(settings_of("surgun"), "surgun", capped, "object").cap == float("inf")
    assert configure(settings_of("rgd"), "rgd", {"bound": float("inf")}, "object").bound == float("inf")
