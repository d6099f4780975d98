"""A method of another package: one file and an entry point, and every verb knows it as one of excise's own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import worlds
import yaml
from entry_points import Entry
from plugins import NUDGE, install, nudge_record

from excise import Edit, erase
from excise.attacks import ATTACKS
from excise.attacks.suite import SuiteOptions, attack
from excise.bench.recipe import read
from excise.bench.run import run as run_bench
from excise.concepts.vocabulary import VOCABULARIES
from excise.edits.hooks import HOOKS
from excise.errors import ModelError, PluginError
from excise.families import FAMILIES, family_of, load
from excise.judges import FEATURES, JUDGES
from excise.methods import METHODS, load_method
from excise.methods.fitting import families_for
from excise.protocols import PROTOCOLS
from excise.registry import Record

SOURCE = (NUDGE / "nudge.py").read_text(encoding="utf-8")


@pytest.fixture
def site(tmp_path):
    """A folder in which the package is installed."""
    return install(tmp_path / "site", "nudge", {"nudge.py": SOURCE}, {"nudge": "nudge:Nudge"})


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
    assert '[project.entry-points."excise.methods"]\nnudge = "nudge:Nudge"' in declared


def test_it_is_listed_and_erased_with_in_a_process_that_finds_its_entry_point(site, model, tmp_path):
    listed = command("methods", site=site)
    assert listed.returncode == 0, listed.stderr
    assert "Targets read as their anchors by the smallest change" in " ".join(listed.stdout.split())
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
    assert shown["title"] == "Targets read as their anchors by the smallest change"
    assert (shown["needs"], shown["families"]) == ("static_text", ", ".join(families_for(METHODS.record("uce"))))
    ridge = next(s for s in shown["settings"] if s["name"] == "ridge")
    assert ridge == {
        "name": "ridge",
        "default": 0.1,
        "values": "a number above 0",
        "description": "Pull towards the original weights; larger is gentler.",
        "read": "always",
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


HALF = SOURCE.replace("def solve(", "def solves(")
LAST_WORDS = "raise SystemExit(3)\n"
BROKEN = {
    "lost": ("broken:RECORD", "ModuleNotFoundError: No module named 'no_such_module'"),
    "quits": ("quits:RECORD", "cannot be imported (SystemExit: 3)"),
    "no-record": ("json:loads", "is no class derived from ClosedForm"),
    "no-class": ("math:pi", "is a float; expected a class or a function"),
    "half": ("half:Nudge", "has no `solve`; expected a method `solve(problem, weights, config, generator)`"),
    "uce": ("half:Nudge", "has the name of a built-in method; give it another name"),
}


@pytest.fixture
def broken_site(tmp_path, monkeypatch):
    """A folder on the import path with a package whose entry points are all broken."""
    files = {"broken.py": "import no_such_module\n", "half.py": HALF, "quits.py": LAST_WORDS}
    entries = {name: target for name, (target, _) in BROKEN.items()}
    monkeypatch.syspath_prepend(str(install(tmp_path / "site", "broken", files, entries)))
    monkeypatch.setattr(METHODS, "warned", set())
    yield
    sys.modules.pop("half", None)


@pytest.mark.usefixtures("broken_site")
def test_broken_plug_ins_are_named_once_in_a_warning_and_left_out(excise):
    status, out, err = excise("methods", "--json")
    assert status == 0
    rows = json.loads(out)
    assert {row["name"] for row in rows if "broken" not in row} == {n for n in METHODS if METHODS.is_built_in(n)}
    reasons = {row["name"]: row["broken"] for row in rows if "broken" in row}
    assert set(reasons) == set(BROKEN)
    for name, (target, reason) in BROKEN.items():
        assert reason in reasons[name]
        (line,) = [line for line in err.splitlines() if f"the method '{name}'" in line]
        assert line.startswith("excise: warning: ")
        assert target in line
        assert reason in line
        assert line.endswith("Until then it is left out.")
    status, out, err = excise("methods")
    assert (status, err) == (0, "")
    assert not {line.split()[0] for line in out.splitlines() if line.strip()} & (set(BROKEN) - {"uce"})
    for name in BROKEN:
        status, out, error = excise("methods", name)
        wanted = (0, 0) if name == "uce" else (2, 1)
        assert (status, error.count("\n")) == wanted, error


@pytest.mark.usefixtures("broken_site")
def test_broken_plug_ins_break_neither_erasing_nor_a_bench(excise, model, tmp_path, monkeypatch):
    worlds.register(monkeypatch)
    status, _, err = excise("erase", "--model", model, "-c", "cat", "--method", "uce", "--out", tmp_path / "run")
    assert (status, "Traceback" in err) == (0, False), err
    status, _, err = excise("erase", "--model", model, "-c", "cat", "--method", "half", "--out", tmp_path / "no")
    assert (status, err.count("\n"), (tmp_path / "no").exists()) == (2, 1, False), err
    recipe = {"schema": 1, "models": [str(model)], "protocols": ["small-world"], "concepts": ["cat"]}
    for method, message in (("half", "has no `solve`"), ("lost", "no_such_module"), ("none", "no method 'none'")):
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({**recipe, "methods": [method]}), encoding="utf-8")
        status, _, err = excise("bench", tmp_path / "recipe.yaml", "--out", tmp_path / "bench")
        assert (status, message in err) == (2, True), err
        assert not (tmp_path / "bench").exists()


KINDS = {
    "excise.attacks": ATTACKS,
    "excise.families": FAMILIES,
    "excise.features": FEATURES,
    "excise.hooks": HOOKS,
    "excise.judges": JUDGES,
    "excise.protocols": PROTOCOLS,
    "excise.vocabularies": VOCABULARIES,
}


@pytest.mark.parametrize("group", KINDS)
def test_every_kind_of_plug_in_may_be_broken(group, model, tmp_path, monkeypatch, excise):
    registry = KINDS[group]
    assert registry.group == group
    source = "def odd(one, two, three):\n    return 3\n"
    files = {"oddities.py": source, "lost.py": "import no_such_module\n"}
    site = install(tmp_path / "site", "oddities", files, {"odd": "oddities:odd", "lost": "lost:Lost"}, group)
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setattr(registry, "warned", set())
    status, _, err = excise("erase", "--model", model, "-c", "cat", "--method", "uce", "--out", tmp_path / "run")
    assert (status, "Traceback" in err) == (0, False), err
    with warnings.catch_warnings(record=True) as given:
        warnings.simplefilter("always")
        names = [*registry, *registry]
    assert not {"odd", "lost"} & set(names)
    sentences = [*(str(w.message) for w in given), *err.splitlines()]
    assert sum("Until then it is left out" in sentence for sentence in sentences) == 2
    for name in ("odd", "lost"):
        with pytest.raises(PluginError, match=f"the {registry.kind} '{name}'"):
            registry.load(name)
    if group == "excise.vocabularies":
        request = ("erase", "--model", model, "-c", "cat", "--vocabulary", "lost", "--out", tmp_path / "no")
        assert "the vocabulary 'lost'" in excise(*request)[2]
    sys.modules.pop("oddities", None)


def test_a_record_with_a_field_of_another_type_is_refused(registered):
    registered(Entry("mine", Record("nudge:Nudge", "mine", needs="static_text")))
    with pytest.raises(PluginError, match="has the needs 'static_text' in its record; expected a set of words"):
        METHODS.record("mine")


def test_of_two_packages_with_one_name_the_first_found_has_it(registered):
    registered(Entry("mine", nudge_record()), Entry("mine", None, ImportError()))
    assert METHODS.record("mine") == nudge_record()


def red(weights):
    """Sees red in every picture."""
    return Red()


class Red:
    name = "red"

    def verdicts(self, images):
        return {"object": ["red"] * len(images)}


def test_a_function_is_a_judge_factory_without_a_record(monkeypatch):
    monkeypatch.setattr(
        "excise.registry.entry_points", lambda group: [Entry("red", red)] if group == "excise.judges" else []
    )
    monkeypatch.setitem(sys.modules, red.__module__, sys.modules[__name__])
    assert JUDGES.record("red").title == "Sees red in every picture"
    assert JUDGES.load("red")(None).verdicts([1]) == {"object": ["red"]}
    monkeypatch.setattr(Red, "verdicts", None)
    with pytest.raises(PluginError, match="the judge 'red' .* returns a Red from judge.weights.; expected"):
        JUDGES.load("red")(None)


@pytest.mark.usefixtures("plugin")
def test_it_is_refused_where_its_needs_are_not_met(pipe, monkeypatch):
    family = family_of(pipe)
    monkeypatch.setattr(type(family), "provides", frozenset({"attention"}))
    with pytest.raises(
        ModelError, match=r"nudge needs .*\(static_text\), which the model family 'sd' does not provide"
    ):
        erase(family, ["cat"], "nudge")
    assert load_method("nudge").shape == METHODS.record("nudge").shape == "closed-form"
