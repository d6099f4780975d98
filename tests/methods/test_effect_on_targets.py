"""A closed form says where what is retained leaves it no room to erase in, and is silent where it erases."""

from __future__ import annotations

import warnings

import pytest
import torch
from dits import CASES
from problems import problem

from excise import erase
from excise.edits.deltas import Dense
from excise.errors import ExciseWarning
from excise.methods.closed_form.effect import Effect
from excise.methods.solution import Solution

KEPT = {"preserve": ["dog", "tree"], "vocabulary": None}


def warned(pipe, method: str, **more) -> list[str]:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        erase(pipe, ["cat"], method, **{**KEPT, **more})
    return [str(w.message) for w in said if issubclass(w.category, ExciseWarning)]


@pytest.mark.parametrize("name", ["flux2-klein", "lumina2"])
def test_fixed_states_that_fill_the_text_space_are_said(name):
    """The empty prompt has more rows than the tiny model's text states have directions."""
    pipe = CASES[name].build()
    said = warned(pipe, "rece", pads="all")
    assert len(said) == 1
    assert "RECE moves what the model reads of the targets by 0.0% of the way alone" in said[0]
    assert "--set fixed=start" in said[0]
    assert warned(pipe, "rece", fixed="start", regularisation=1e-3) == []


def test_speed_tells_the_threshold_that_would_leave_room(pipe):
    said = warned(pipe, "speed", vocabulary="canvas", threshold=1e-9)
    assert len(said) == 1
    assert "raise --set threshold=..., which is 1e-09 here" in said[0]
    weak = float(said[0].partition("lies below ")[2].removesuffix("."))
    assert weak > 1e-9
    assert warned(pipe, "speed", vocabulary="canvas", threshold=10 * weak) == []


def test_what_erases_says_nothing(every_pipe):
    for method in ("uce", "scapre", "speed"):
        assert warned(every_pipe, method) == []


def test_a_target_that_is_its_anchor_already_is_said(make):
    """In a causal text encoder without an end token nothing stands around a name but what stands around its anchor."""
    pipe = make("sana")
    with pytest.warns(ExciseWarning, match="the targets read as their anchors do already; name another --anchor"):
        erase(pipe, ["cat"], "uce", tokens="context", prompts="name", preserve=["dog"], vocabulary=None)


def test_the_share_is_that_of_the_way_from_target_to_anchor():
    rng = torch.Generator().manual_seed(0)

    def rows(n: int) -> torch.Tensor:
        return torch.randn((n, 6), generator=rng, dtype=torch.float64)

    given = problem(rows(3), rows(3), rows(2), rows(1)[0], rows(2))
    W = rows(4)
    half = 0.5 * W @ (given.anchors - given.targets).mT @ torch.linalg.pinv(given.targets).mT
    effect = Effect(nothing=False)
    effect.add(given, {"a": W}, Solution(modules={"a": Dense(half)}))
    assert effect.share == pytest.approx(0.5, rel=1e-4)
