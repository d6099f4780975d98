"""What the refusal of an idle setting proposes makes it taken, by the configuration and by the method's checks."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from types import SimpleNamespace
from typing import Any, cast

import pytest
from given import other_than_usual, values_of

from excise.errors import SettingError
from excise.methods import METHODS, load_method, settings_of
from excise.methods.trained.base import Stepped
from excise.support.reading import POSITIVE, unmet
from excise.support.settings import Settings, configure, idle_settings, merge_settings
from excise.training.problem import TrainingProblem

CONDITIONAL = [
    (method, name)
    for method in METHODS.records()
    for name in settings_of(method).model_fields
    if settings_of(method).read_beside(name) and name not in settings_of(method).unread
]


class NothingTrained:
    """A method that trains nothing, so that its checks need no model."""

    def targets(self, family: object, config: object) -> list[str]:
        return []


def taken(method: str, given: dict[str, Any]) -> Settings:
    """The configuration, once the method has checked it for a target with an anchor and something to keep."""
    made = configure(settings_of(method), method, given, "object")
    loaded = load_method(method)
    if isinstance(loaded, Stepped):
        target = SimpleNamespace(name="cat", words=["cat"], anchor="car", kind="object")
        family = SimpleNamespace(provides=frozenset())
        problem = SimpleNamespace(concepts=[target], retain=["dog"], family=family)
        checking = type("Checking", (NothingTrained, type(loaded)), {})()
        checking.check(cast(TrainingProblem, problem), made)
    return made


def proposed(method: str, name: str, made: Settings) -> dict[str, Any]:
    """The values that the sentence names."""
    wanted = unmet(settings_of(method).read_beside(name), made)
    return {other: some(method, other, values[0]) for other, values in wanted.items()}


def some(method: str, name: str, wanted: Any) -> Any:
    if wanted == POSITIVE:
        return next(value for value in values_of(method, name) if value is not None and value > 0)
    return wanted


def idle_beside(method: str, name: str) -> Iterator[tuple[dict[str, Any], Settings]]:
    """Requests that a method takes and a setting is idle in: each preset, with each other value of what decides."""
    config = settings_of(method)
    others = dict.fromkeys(other for way in config.read_beside(name) for other in way)
    for preset in ("default", *config.presets):
        usual = merge_settings(config, method, {"preset": preset}, "object")
        for each in product(*(values_of(method, other) for other in others)):
            changed = {o: v for o, v in zip(others, each, strict=True) if v != getattr(usual, o)}
            given = {"preset": preset, **changed}
            try:
                made = taken(method, given)
            except SettingError:
                continue
            if not made.reads(name):
                yield given, made


@pytest.mark.parametrize(("method", "name"), CONDITIONAL)
def test_what_is_proposed_is_taken(method, name):
    for given, made in idle_beside(method, name):
        asked = {**given, name: other_than_usual(method, name, given)}
        assert name in idle_settings(settings_of(method), method, asked, "object")
        assert taken(method, {**asked, **proposed(method, name, made)}).reads(name), asked
