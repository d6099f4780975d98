"""`preset=official` is the published program's recipe, to the digits that a text encoder in single precision gives."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks.canvas_presets import measure
from excise import Concept, erase, load
from excise.edits.originals import original_weights
from excise.errors import SettingError
from excise.methods import METHODS
from excise.support.settings import Usual, configure

DATA = Path(__file__).parents[1] / "data" / "official"
ROUNDING = 1e-4  # what two processors' rounding of the text states comes to; another token or scale gives 1e-1
# By file: the method, the kind of its concepts, and what the file says of the settings.
RUNS = {
    "uce-one": ("uce", "object", {}),
    "uce-style": ("uce", "style", {}),
    "uce-three-kept": ("uce", "object", {}),
    "speed-instance": ("speed", "instance", {"augment": "none", "filter": False}),
    "speed-style": ("speed", "style", {"augment": "none", "filter": False}),
    "speed-celebrity": ("speed", "person", {"augment": "none", "filter": False}),
    "speed-explicit": ("speed", "explicit", {"augment": "none", "filter": False}),
    "rece-one": ("rece", "object", {}),
    "rece-two": ("rece", "object", {}),
    "rece-two-rounds": ("rece", "object", {"rounds": 2}),
    "rece-style": ("rece", "style", {}),
    "mace-one": ("mace", "object", {"ridge": 10.0}),
    "mace-guitar": ("mace", "object", {"ridge": 10.0}),
    "mace-two": ("mace", "object", {"ridge": 10.0}),
    "mace-kept": ("mace", "object", {"ridge": 1.0, "retain_scale": 0.8}),
    "scapre-explicit": ("scapre", "object", {"preset": "official-explicit", "noise": 0.0}),
    "scapre-few": ("scapre", "object", {"preset": "official-few"}),
    "scapre-scale": ("scapre", "object", {}),
}


@pytest.fixture(scope="module")
def canvas():
    return load("canvas-sd")


def sketch(change: torch.Tensor) -> torch.Tensor:
    """(3, 3) of a change (out, in), as the files have it."""
    j = torch.arange(1, 4).double()
    left, right = (torch.arange(n).double()[:, None] for n in change.shape)
    return torch.cos(1 + left * j).mT @ change @ torch.cos(2 + right * j)


def test_every_file_is_compared():
    assert {path.stem for path in DATA.glob("*.json")} == set(RUNS)


@pytest.mark.canvas
@pytest.mark.parametrize("name", RUNS)
def test_the_official_preset_gives_what_the_program_gives(canvas, name):
    method, kind, settings = RUNS[name]
    told = json.loads((DATA / f"{name}.json").read_text(encoding="utf-8"))
    targets = zip(told["targets"], told["anchors"], strict=True)
    concepts = [Concept(target, kind, anchor=anchor.strip()) for target, anchor in targets]
    request = {"preset": "official", "vocabulary": None, "preserve": [r for r in told["retain"] if r], **settings}
    edits = [erase(canvas, concepts, method, seed=seed, **request) for seed in range(told.get("seeds", 1))]
    layers, allowed = told["layers"], max(told["tolerance"], ROUNDING)
    if name != "scapre-few":  # of that one some layers hang on rounding
        assert set(edits[0].paths) == set(layers)
    for path, weight in original_weights(canvas, layers).items():
        change = torch.stack([edit.delta(path, weight.double()) for edit in edits]).mean(dim=0)
        wanted = torch.tensor(layers[path]["sketch"], dtype=torch.float64)
        assert float(change.norm()) == pytest.approx(layers[path]["norm"], rel=allowed)
        assert (sketch(change) - wanted).norm() <= allowed * wanted.norm()


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
