"""A method of another package: one file and an entry point, and every verb knows it as one of excise's own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import worlds
import yaml
from plugins import NUDGE, install

from excise import Edit, erase
from excise.attacks.suite import SuiteOptions, attack
from excise.bench.recipe import read
from excise.bench.run import run as run_bench
from excise.errors import ModelError
from excise.families import family_of, load
from excise.methods import METHODS, load_method

SOURCE = (NUDGE / "nudge.py").read_text(encoding="utf-8")


@pytest.fixture
def site(tmp_path):
    """A folder in which the package is installed."""
    return install(tmp_path / "site", "nudge", {"nudge.py": SOURCE}, {"nudge": "nudge:RECORD"})


@pytest.fixture
def plugin(site, monkeypatch):
    """The package on the import path of this process."""
    monkeypatch.syspath_prepend(str(site))
    yield
    sys.modules.pop("nudge", None)


def sees_all(images, names):
    return [True] * len(images)


def command(*args: object, site: Path) -> subprocess.CompletedProcess[str]:
    """Run `excise` in another process that has a folder on its import path."""
    path = os.pathsep.join([str(site), *sys.path])
    return subprocess.run(
        [sys.executable, "-m", "excise.cli.main", *map(str, args)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )


def test_the_method_is_one_file_of_at_most_forty_lines():
    assert len(SOURCE.splitlines()) <= 40
    declared = (NUDGE / "pyproject.toml").read_text(encoding="utf-8")
    assert '[project.entry-points."excise.methods"]\nnudge = "nudge:RECORD"' in declared


def test_it_is_listed_and_erased_with_in_a_process_that_finds_its_entry_point(site, model, tmp_path):
    listed = command("methods", site=site)
    assert listed.returncode == 0, listed.stderr
    assert "targets read as their anchors by the smallest change" in " ".join(listed.stdout.split())
    out = tmp_path / "run"
    erased = command("erase", "--model", model, "-c", "cat", "--method", "nudge", "--set", "ridge=0.5", "--out", out,
                     site=site)  # fmt: skip
    assert erased.returncode == 0, erased.stderr
    record = Edit.load(out / "edit.safetensors").record
    assert (record.method, record.settings["ridge"]) == ("nudge", 0.5)


@pytest.mark.usefixtures("plugin")
def test_it_is_documented(excise):
    status, out, _ = excise("methods", "nudge", "--json")
    assert status == 0
    shown = json.loads(out)
    assert shown["title"] == "targets read as their anchors by the smallest change"
    assert (shown["needs"], shown["families"]) == ("text_kv", "sd, sdxl, sana")
    ridge = next(s for s in shown["settings"] if s["name"] == "ridge")
    assert ridge == {
        "name": "ridge",
        "default": 0.1,
        "values": "float",
        "description": "Pull towards the original weights; larger is gentler.",
    }
    status, out, _ = excise("methods", "nudge")
    assert status == 0
    assert "Pull towards the original weights" in " ".join(out.split())


@pytest.mark.usefixtures("plugin")
def test_it_is_benched_and_attacked(model, tmp_path, monkeypatch):
    worlds.register(monkeypatch)
    recipe = {
        "schema": 1,
        "name": "plug-in",
        "models": [str(model)],
        "protocols": ["small-world"],
        "methods": ["nudge"],
        "concepts": ["cat"],
        "vocabulary": "none",
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    (done,) = run_bench(read(tmp_path / "recipe.yaml"), tmp_path / "bench")
    assert done.line()["method"] == "nudge"
    edit = Edit.load(next((tmp_path / "bench" / "edits").glob("*.safetensors")))
    attacked = attack(
        load(model, device="cpu"),
        "cat",
        [edit],
        SuiteOptions("quick", ["seeds"], images=1, tests=1, others=["dog"], judge=sees_all),
    )
    assert [r.name for r in attacked.results] == ["seeds"]


def test_a_broken_plug_in_is_listed_as_broken_and_breaks_nothing_else(tmp_path, monkeypatch, excise):
    entries = {"lost": "broken:RECORD", "no-record": "json:loads", "half": "half:RECORD"}
    half = SOURCE.replace("nudge:Nudge", "half:Nudge").replace("def solve(", "def solves(")
    site = install(tmp_path / "site", "broken", {"broken.py": "import no_such_module\n", "half.py": half}, entries)
    monkeypatch.syspath_prepend(str(site))
    status, out, _ = excise("methods", "--json")
    assert status == 0
    rows = {row["name"]: row for row in json.loads(out)}
    assert {"uce", "speed", *entries} <= set(rows)
    assert "broken" not in rows["uce"]
    assert "ModuleNotFoundError: No module named 'no_such_module'" in rows["lost"]["broken"]
    assert "is a function; expected an object of type excise.registry.Record" in rows["no-record"]["broken"]
    assert "has no `solve`; expected a method `solve(problem, weights, config, generator)`" in rows["half"]["broken"]
    status, out, _ = excise("methods")
    assert status == 0
    assert "broken" in out
    for name in entries:
        status, _, error = excise("methods", name)
        assert (status, error.count("\n")) == (2, 1)
    assert excise("methods", "uce", "--json")[0] == 0


@pytest.mark.usefixtures("plugin")
def test_it_is_refused_where_its_needs_are_not_met(pipe, monkeypatch):
    family = family_of(pipe)
    monkeypatch.setattr(type(family), "provides", frozenset({"attention"}))
    with pytest.raises(ModelError, match=r"nudge needs .*\(text_kv\), which the model family 'sd' does not provide"):
        erase(family, ["cat"], "nudge")
    assert load_method("nudge").shape == METHODS.record("nudge").shape == "closed-form"
