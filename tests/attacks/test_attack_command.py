"""`excise attack` and attacks in recipes, on the built-in model."""

from __future__ import annotations

import json

import pytest
from attack_runs import ORACLE
from typer.testing import CliRunner

from excise import erase, load
from excise.attacks.accounting import Outcome, Result
from excise.attacks.suite import SuiteOptions, SuiteResult, attack
from excise.bench import run as bench
from excise.bench.recipe import read
from excise.cli.main import app
from excise.errors import ExciseError


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Where the pictures of the untouched model are kept for all tests here."""
    return tmp_path_factory.mktemp("user-cache")


@pytest.fixture(autouse=True)
def one_cache(cache_home, pictures, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(pictures))


def command(tmp_path, *more):
    args = ["attack", "--concept", "cat", "--suite", "quick", "--attack", "seeds", "--attack", "unlearndiffatk"]
    args += [
        "--images",
        "2",
        "--tests",
        "2",
        "--set",
        "iterations=2",
        "--set",
        "batch=2",
        "--out",
        str(tmp_path / "run"),
    ]
    return CliRunner().invoke(app, [*args, *more])


def test_the_command_on_the_built_in_model(tmp_path):
    """Without an edit nothing is gone: seed search finds it at once, and the page says so."""
    done = command(tmp_path, "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    seeds, words = found["attacks"]
    assert (seeds["name"], seeds["any_of_n"], seeds["gap"]) == ("seeds", 1.0, 0.0)
    assert set(words) >= {"name", "budget", "rate", "any_of_n", "control", "oracle", "gap"}
    assert found["gap_to"] == "control"
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Attacks on cat" in page
    assert "quick suite on canvas-sd without edits." in page
    assert page.count('<figure class="hit">') >= 4
    assert json.loads((tmp_path / "run" / "run.json").read_text())["verb"] == "attack"
    assert found["worst_gap"] is None
    assert (found["worst_back"], found["worst_attack"]) == (1.0, "seeds")
    gated = command(tmp_path, "--require", "worst_back<=0.5")
    assert gated.exit_code == 1
    assert "gate failed: worst_back is" in gated.stderr


def test_the_gates_of_an_attack_are_kept_beside_the_edit(tmp_path, monkeypatch):
    found = Outcome(["a cat"], [[True]], None, [["a cat"]], 2, 40, 3.0, 0.0)
    outcome = SuiteResult([Result("seeds", "seeds", {}, "any", False, 1, found, found)], {"seeds": []}, False, "j", "k")
    monkeypatch.setattr("excise.attacks.suite.attack", lambda *_, **__: outcome)
    monkeypatch.setattr("excise.attacks.suite.estimate", lambda *_, **__: 1.0)
    edit = erase(load("canvas-sd"), ["cat"], "uce", vocabulary=None).save(tmp_path / "cat" / "edit.safetensors")
    done = command(tmp_path, "--edit", str(edit.parent), "--require", "worst_back<=0.5")
    assert done.exit_code == 1, done.output
    inspected = CliRunner().invoke(app, ["inspect", str(edit), "--json"])
    (check,) = json.loads(inspected.stdout)["verified"]
    assert (check["command"], check["gates"][0]["passed"]) == ("attack", False)


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--require", "ua>=0.9"], "no metric 'ua'"),
        (["--require", "worst_gap<=0.1"], "worst_gap needs a model that was never trained on the concept"),
        (["--suite", "quik"], "Did you mean 'quick'?"),
        (["--images", "0"], "a budget of no pictures"),
        (["--concept", "zebra crossing"], "nothing to bring back"),
        (["--attack", "seed"], "Did you mean 'seeds'?"),
        (["--oracle", "nowhere"], "nowhere"),
    ],
)
def test_bad_input_from_the_command_line(tmp_path, more, sentence):
    done = command(tmp_path, *more)
    assert isinstance(done.exception, ExciseError), done.output
    assert sentence in str(done.exception)
    assert not (tmp_path / "run" / "run.json").exists()
    assert not (tmp_path / "run").exists() or more[0] == "--concept"  # what a model can draw is known only by drawing


def test_a_planted_leak_is_found(pictures):
    """An edit that keeps the synonym on purpose: the name is gone from other seeds, "kitty" brings it back."""
    family = load("canvas-sd")
    edit = erase(family, ["cat"], "uce", vocabulary="canvas-strict", preserve=["kitty"])
    options = SuiteOptions("quick", ["seeds", "synonyms"], tests=3, images=3, cache=pictures / "excise" / "images")
    found = attack(family, "cat", [edit], options)
    seeds, synonyms = found.results
    assert seeds.model.any_of_n.value <= 1 / 3
    assert synonyms.model.any_of_n.value == 1.0
    assert found.worst.attack == "synonyms"


def test_other_seeds_find_a_cat_in_the_untouched_model_and_hardly_in_one_that_never_knew_it(pictures):
    cache = pictures / "excise" / "images"
    options = SuiteOptions(oracle=load(ORACLE), names=["seeds", "hole"], tests=4, images=6, cache=cache)
    found = attack(load("canvas-sd"), "cat", (), options)
    seeds, hole = found.results
    assert seeds.model.rate.value >= 0.8
    assert seeds.oracle.rate.value <= 0.1
    assert hole.model.any_of_n.value == 1.0
    assert found.judge.startswith("canvas-judge-a and canvas-judge-b, together sure to 0.")


def test_a_recipe_that_attacks_keeps_what_attacks_found(tmp_path):
    """On the built-in model without an edit: seeds bring it back at once, and the second run attacks nothing again."""
    text = """
schema: 1
models: [canvas-sd]
protocols: [canvas-mini]
groups: [aliases]
methods: [identity]
concepts: [cat]
attack: {suite: quick, tests: 2, images: 2, only: [seeds, paraphrases]}
"""
    (tmp_path / "recipe.yaml").write_text(text)
    recipe = read(tmp_path / "recipe.yaml")
    (done,) = bench.run(recipe, tmp_path / "out")
    line = done.line()
    assert [a["name"] for a in line["attacks"]] == ["seeds", "paraphrases"]
    assert line["metrics"]["worst_back"]["value"] == 1.0
    assert "worst_gap" not in line["metrics"]
    kept = {p: p.stat().st_mtime_ns for p in (tmp_path / "out" / "attacks").rglob("outcome.json")}
    assert len(kept) == 2
    next((tmp_path / "out" / "cells").iterdir()).unlink()
    (again,) = bench.run(recipe, tmp_path / "out")
    assert again.line()["attacks"] == line["attacks"]
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "out" / "attacks").rglob("outcome.json")} == kept


def test_an_edit_of_another_model_is_refused_before_the_minutes_are_told(excise, pipe, tmp_path):
    edit = erase(pipe, ["cat"], "uce", vocabulary=None).save(tmp_path / "edit.safetensors")
    status, _, err = excise("attack", "-c", "cat", "--edit", edit, "--out", tmp_path / "run")
    assert (status, "this edit was made for" in err, "about" in err) == (2, True, False), err
    assert not (tmp_path / "run").exists()
