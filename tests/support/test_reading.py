"""Settings that are read only beside values of others: each method's declarations, and what is refused by them."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
from given import configured, other_than_usual, values_of
from pydantic import Field

from excise.errors import SettingError
from excise.methods import METHODS, settings_of
from excise.support.reading import POSITIVE, READ_ALWAYS, read_with
from excise.support.settings import OMIT_DEFAULT, Settings, configure, idle_settings, merge_settings

EVERY = [(method, name) for method in METHODS.records() for name in settings_of(method).model_fields]
CONDITIONAL = [
    (method, name)
    for method, name in EVERY
    if settings_of(method).read_beside(name) and name not in settings_of(method).unread
]
UNREAD = [(method, name) for method in METHODS.records() for name in sorted(settings_of(method).unread)]
ALWAYS_MET = {("selective-amnesia", n) for n in ("retain_on", "combine")}
"""Settings that are read with others which the method allows no other value of."""
KINDS = ("object", "style", "explicit")


def situations(method: str, name: str) -> list[tuple[dict[str, Any], bool]]:
    """Values of the settings that a setting is read beside, and whether it is read then: all their combinations."""
    config = settings_of(method)
    ways = config.read_beside(name)
    others = [o for o in dict.fromkeys(other for way in ways for other in way) if o not in config.unread]
    given = [dict(zip(others, each, strict=True)) for each in product(*(values_of(method, o) for o in others))]
    return [(each, configured(method, each).reads(name)) for each in given]


@pytest.mark.parametrize(("method", "name"), CONDITIONAL)
def test_a_setting_is_taken_where_it_is_read_and_refused_where_not(method, name):
    config, seen = settings_of(method), set()
    for beside, read in situations(method, name):
        seen.add(read)
        # What it is read beside may itself be idle here, which is not the question.
        given = {**beside, name: other_than_usual(method, name, beside)}
        told = idle_settings(config, method, given, "object").get(name)
        if read:
            assert told is None, given
            continue
        assert told is not None, given
        assert told.startswith(f"{method}: setting '{name}' is read {config.when_read(name)}, and "), told
        assert f"; leave {name} out, or set " in told
        assert told.endswith(f". See: excise methods {method}")
        with pytest.raises(SettingError):
            configure(config, method, given, "object")
    assert seen == ({True} if (method, name) in ALWAYS_MET else {True, False})


@pytest.mark.parametrize(("method", "name"), UNREAD)
def test_a_setting_that_a_method_never_reads_is_refused(method, name):
    config = settings_of(method)
    assert name in config.model_fields
    value = other_than_usual(method, name, {})
    with pytest.raises(SettingError) as error:
        configure(config, method, {name: value}, "object")
    expected = f"{method}: this method does not read '{name}', which was {value!r}; leave {name} out. "
    assert str(error.value) == f"{expected}See: excise methods {method}"
    assert configure(config, method, {name: getattr(config(), name)}, "object") == configure(
        config, method, {}, "object"
    )


@pytest.mark.parametrize(("method", "name"), [pair for pair in CONDITIONAL if pair not in UNREAD])
def test_a_declaration_names_settings_and_values_that_there_are(method, name):
    config = settings_of(method)
    for way in config.read_beside(name):
        for other, values in way.items():
            assert other in config.model_fields, other
            for value in values:
                if value == POSITIVE:
                    assert any(value is not None and value > 0 for value in values_of(method, other))
                elif not str(value).endswith(":n"):
                    assert value in values_of(method, other), (other, value)


@pytest.mark.parametrize("method", METHODS.records())
def test_every_preset_is_taken_in_full(method):
    """As a record has it: all settings of a preset, given by name, among them those that it does not read."""
    config = settings_of(method)
    for kind in KINDS:
        for preset in ("default", *config.presets):
            made = merge_settings(config, method, {"preset": preset}, kind)
            given = {"preset": preset, **{name: getattr(made, name) for name in config.model_fields}}
            assert configure(config, method, given, kind) == made
            assert not {*config.presets.get(preset, ())} & config.unread, preset


@pytest.mark.parametrize(
    ("method", "given", "sentence"),
    [
        (
            "esd",
            {"target": "neutral", "eta": 3},
            "esd: setting 'eta' is read with target=negate, and target is 'neutral'; leave eta out, or set "
            "target=negate. See: excise methods esd",
        ),
        (
            "esd",
            {"pictures": 4},
            "esd: setting 'pictures' is read with by=images, or with retain_weight above 0 and retain_on=pictures or "
            "anchor, and by is 'student', retain_weight is 0.0 and retain_on is 'latents'; leave pictures out, or set "
            "by=images. See: excise methods esd",
        ),
        (
            "surgun",
            {"confine": False, "blocks": "all", "keep_blocks": 1},
            "surgun: setting 'keep_blocks' is read with confine=false and blocks=auto, and confine is false and blocks "
            "is 'all'; leave keep_blocks out, or set blocks=auto. See: excise methods surgun",
        ),
        (
            "scapre",
            {"form": "scale", "mu": 0.5, "bins": 5},
            "scapre: setting 'bins' is read with form=scale and mu=null, or with form=scale and spherical=true, or "
            "with form=small, and form is 'scale', mu is 0.5 and spherical is false; leave bins out, or set mu=null. "
            "See: excise methods scapre",
        ),
    ],
)
def test_the_sentence_says_what_was_seen_what_is_expected_and_what_to_do(method, given, sentence):
    with pytest.raises(SettingError) as error:
        configure(settings_of(method), method, given, "object")
    assert str(error.value) == sentence


@pytest.mark.parametrize(("method", "name"), CONDITIONAL)
def test_no_condition_is_about_what_the_method_never_reads(method, name):
    config = settings_of(method)
    assert not config.unread & {other for way in config.read_beside(name) for other in way}


def test_conditions_about_what_is_never_read_are_decided_by_its_default():
    assert settings_of("receler").when_read("rank") == settings_of("slug").when_read("retain_on") == "always"
    assert settings_of("receler").when_read("pictures") == "with by=images"


def test_a_hardening_falls_in_cycles_too():
    """Its learning rate falls along a cosine, whatever that of the first training does."""
    assert configure(settings_of("surgun"), "surgun", {"robust": 2, "lr_cycles": 3}, "object").lr_cycles == 3
    with pytest.raises(SettingError, match="'lr_cycles' is read with"):
        configure(settings_of("surgun"), "surgun", {"lr_cycles": 3}, "object")


def test_values_of_presets_are_never_refused():
    """Of the preset the weights are the model's own, and its LoRA's rank would be idle were it the user's."""
    given = {"preset": "canvas", "weights": "full"}
    assert not configured("ace", given).reads("rank")
    assert configure(settings_of("ace"), "ace", given, "object").rank == 8
    assert "rank" in idle_settings(settings_of("ace"), "ace", {**given, "rank": 2}, "object")


class Base(Settings):
    on: bool = Field(False, description="x")
    often: int = Field(1, description="x", json_schema_extra=OMIT_DEFAULT | read_with(on=True))
    late: float = Field(0.5, description="x", json_schema_extra=read_with(on=True))


class Derived(Base):
    often: int = Field(2, description="x")
    late: float = Field(0.5, description="x", json_schema_extra=READ_ALWAYS)


def test_a_declaration_holds_in_a_derived_class_until_another_is_made():
    assert Base.when_read("often") == Derived.when_read("often") == "with on=true"
    assert (Base.when_read("late"), Derived.when_read("late"), Base.when_read("on")) == (
        "with on=true",
        "always",
        "always",
    )


def test_a_mark_beside_a_declaration_still_leaves_defaults_out_of_records():
    assert Base().model_dump() == {"anchor": "", "on": False, "late": 0.5}
    assert Base(often=3).model_dump()["often"] == 3
    assert Derived().model_dump()["often"] == 2
