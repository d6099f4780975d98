"""Settings are shown in words, without types of Python."""

from __future__ import annotations

import json
import re
from typing import Literal

import pytest
from annotated_types import Ge, Gt, Le

from excise.methods import METHODS
from excise.support.choices import choices, written


@pytest.mark.parametrize(
    ("annotation", "bounds", "words"),
    [
        (Literal["v", "k", "kv"], (), "v, k or kv"),
        (Literal["one", "two"] | Literal["three"], (), "one, two or three"),
        (Literal["a", "b"] | None, (), "a or b, or null"),
        (float, (Gt(0), Le(1)), "a number above 0 to 1"),
        (int | None, (Ge(2),), "a whole number from 2, or null"),
        (tuple[str, ...], (), "a list of texts"),
        (Literal["all"] | int, (), "all or a whole number"),
        (bool, (), "true or false"),
    ],
)
def test_types_in_words(annotation, bounds, words):
    assert choices(annotation, bounds) == words


@pytest.mark.parametrize("name", METHODS)
def test_no_method_shows_a_type_of_python(excise, name):
    _, text, _ = excise("methods", name, "--json")
    settings = json.loads(text)["settings"]
    assert settings
    for setting in settings:
        assert not re.search(r"typing|Literal|Union|NoneType|\bstr\b|\bint\b|\bfloat\b|\bbool\b|\[", setting["values"])
    _, text, _ = excise("methods", name)
    assert not re.search(r"typing\.|Literal\[|\bTrue\b|\bFalse\b|\bNone\b", text.partition("setting ")[2])


def test_a_value_is_shown_as_set_takes_it():
    for value in (None, True, 0.5, 3, ["a", "b"]):
        assert json.loads(written(value)) == value
    assert (written("anchor"), written("")) == ("anchor", '""')
