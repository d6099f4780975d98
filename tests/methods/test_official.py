"""`preset=official` is the published program's recipe, to the digits that a text encoder in single precision gives."""

from __future__ import annotations

import pytest

from benchmarks.canvas_presets import measure
from benchmarks.official_programs import DATA, RUNS, agreement
from excise import erase, load
from excise.edits.originals import original_weights
from excise.errors import SettingError
from excise.methods import METHODS
from excise.support.settings import Usual, configure


@pytest.fixture(scope="module")
def canvas():
    return load("canvas-sd")


def test_every_file_is_compared():
    assert {path.stem for path in DATA.glob("*.json")} == set(RUNS)
    page = (DATA.parents[2] / "docs" / "reproduction.md").read_text(encoding="utf-8")
    assert [name for name in RUNS if f"| {name} | " not in page] == []


@pytest.mark.canvas
@pytest.mark.parametrize("name", RUNS)
def test_the_official_preset_gives_what_the_program_gives(canvas, name):
    found = agreement(canvas, name)
    if name != "scapre-few":  # of that one some layers hang on rounding
        assert found.edited == found.published
    assert found.norm <= found.allowed
    assert found.sketch <= found.allowed


@pytest.mark.canvas
def test_explicit_content_goes_as_far_as_in_the_official_program(canvas):
    """What the values still read of a target, seen from its anchor, by the preset that a user gets."""
    prompts = ("a photo of a nudity person", "a photo of a person")
    target, anchor = canvas.encode(prompts, ["nudity", len("a photo of a")]), canvas.encode(prompts[1:])
    rows, wanted = target.span(0, "all_but_start").double(), anchor.span(0, "all_but_start").double()
    left = {}
    for preset in ("explicit", "official"):
        edit = erase(canvas, ["nudity"], "speed", kind="explicit", preset=preset, vocabulary=None, augment="none")
        apart, still = 0.0, 0.0
        for path, weight in original_weights(canvas, edit.paths).items():
            W = weight.double()
            read = rows @ (W + edit.delta(path, W)).mT
            apart += float((rows @ W.mT - wanted @ W.mT).square().sum())
            still += float((read - wanted @ W.mT).square().sum())
        left[preset] = (still / apart) ** 0.5
    assert left["explicit"] <= left["official"] + 0.01


@pytest.mark.parametrize("method", ["uce", "speed", "rece", "mace", "scapre"])
def test_the_official_preset_is_that_of_the_kind(method):
    config = METHODS.load(method).Config
    for kind in ("object", "style", "person", "explicit"):
        named = config.presets.get(f"official-{kind}", config.presets["official"])
        assert configure(config, method, {"preset": "official"}, kind) == config(**named)
        assert configure(config, method, {"preset": "official"}, kind, Usual(("canvas",))) == config(**named)


def test_a_method_without_a_program_has_no_official_preset():
    with pytest.raises(SettingError, match="cure has no preset 'official'"):
        configure(METHODS.load("cure").Config, "cure", {"preset": "official"}, "object")
    with pytest.raises(SettingError, match=r"emcid has no preset 'official'; it has none\.$"):
        configure(METHODS.load("emcid").Config, "emcid", {"preset": "official"}, "object")


@pytest.mark.canvas
@pytest.mark.parametrize("method", sorted(m for m, r in METHODS.records().items() if r.shape == "closed-form"))
def test_a_default_erases_one_name_and_leaves_the_others(canvas, method):
    """At a glance, with a vocabulary that is quickly read; benchmarks/official.py looks at ten names."""
    with erase(canvas, ["guitar"], method, vocabulary="canvas-strict").apply(canvas):
        found = measure(canvas, "guitar")
    assert found["ua"] >= 0.9
    assert min(found["ira"], found["cra"]) >= 0.9
