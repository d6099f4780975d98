"""Evaluations in bfloat16: chosen once for all rounds, recorded, and part of what a result is remembered by."""

from __future__ import annotations

import json

import pytest
from worlds import run

from excise import erase
from excise.evaluation import controls, result_cache
from excise.families import family_of
from excise.support import processor

pytestmark = pytest.mark.usefixtures("small_world")


@pytest.fixture
def family(pipe):
    return family_of(pipe)


@pytest.fixture(params=[True, False], ids=["matrix units", "no matrix units"])
def units(request, monkeypatch):
    for place in ("excise.families.half_drawing", "excise.support.processor"):
        monkeypatch.setattr(f"{place}.multiplies_bfloat16", lambda: request.param)
    return request.param


def bytes_of(evaluated):
    return [image.tobytes() for image in evaluated.images]


def test_the_processor_decides_and_the_caller_may_decide_otherwise(family, units):
    default, half, plain = (run(family, bfloat16=choice) for choice in (None, True, False))
    assert (default.result.bfloat16, half.result.bfloat16, plain.result.bfloat16) == (units, True, False)
    assert bytes_of(default) == bytes_of(half if units else plain)
    assert bytes_of(half) != bytes_of(plain)
    assert half.result.hash == plain.result.hash


def test_what_changes_nothing_differs_in_nothing(family, units):
    found = run(family, "cat", edits=[controls.identity(family, "tiny")], untouched=True)
    assert found.result.bfloat16 == units
    assert bytes_of(found) == bytes_of(found.before)


def test_edits_that_steer_the_drawing_are_measured_in_single_precision(family, units):
    edit = erase(family, ["cat"], method="adavd", vocabulary=None)
    found = run(family, "cat", edits=[edit.scaled(0.0)], untouched=True)
    assert not found.result.bfloat16
    assert bytes_of(found) == bytes_of(found.before)


def test_a_remembered_result_is_of_the_same_precision(excise, model, tmp_path, units, monkeypatch):
    keys = []
    monkeypatch.setattr(result_cache, "find", lambda cache, key, out: keys.append(key))
    command = ["evaluate", "--model", model, "--protocol", "small-world", "--no-cache"]
    for choice in ([], ["--bfloat16"], ["--no-bfloat16"]):
        out = tmp_path / "".join(["o", *choice])
        status, _, err = excise(*command, "--out", out, *choice)
        assert status == 0, err
        done = json.loads((out / "run.json").read_text())
        assert done["bfloat16"] == (units if not choice else choice == ["--bfloat16"])
    assert (keys[0] == keys[1]) == units
    assert len(set(keys)) == (2 if units else 3)
    assert processor.multiplies_bfloat16() == units
