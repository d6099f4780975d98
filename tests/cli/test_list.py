"""`excise list` and `excise diff` as a person meets them."""

from __future__ import annotations

import json

import pytest

from excise.cli.listing import found_below
from excise.support.runs import write_run


@pytest.fixture
def runs(excise, model, tmp_path, monkeypatch):
    """A folder of two edits, pictures, an unfinished and a damaged run."""
    home = tmp_path / "runs"
    for name, more in (("cat", ()), ("gentle", ("--set", "ridge=5"))):
        status, _, err = excise(
            "erase", "--model", model, "-c", "cat", "-p", "dog", "--method", "uce", *more, "--out", home / name
        )
        assert status == 0, err
    edit = home / "cat" / "edit.safetensors"
    (home / "kept").mkdir()
    (home / "kept" / "mine.safetensors").write_bytes(edit.read_bytes())
    write_run(home / "evaluated", "evaluate", {"model": "m", "concepts": ["cat"], "edits": [str(edit)]})
    seen = {"value": 1.0, "low": 0.72, "high": 1.0, "n": 10}
    good = {"concept": "cat", "status": "verified", "images": 10, "clean": seen}
    bad = {"concept": "dog", "status": "not verifiable", "images": 10, "clean": None}
    for name, verdicts in (("one", [good]), ("two", [good, bad]), ("none", [])):
        write_run(home / "measured" / name, "evaluate", {"verdicts": verdicts, "metrics": {"ua": seen, "drift": seen}})
    write_run(home / "attacked", "attack", {"model": "m", "concept": "cat", "edits": [str(edit)]})
    write_run(home / "drawn", "generate", {"model": "m", "edits": []})
    for folder in ("begun", "hurt", ".hidden"):
        (home / folder).mkdir()
    (home / "begun" / ".lock").touch()
    (home / "hurt" / "run.json").write_text("{")
    (home / ".hidden" / "run.json").write_text("{}")
    (home / "bench" / "cells").mkdir(parents=True)
    recipe = {"methods": [{"name": "uce"}], "concepts": ["cat", ["dog", "car"]], "models": ["m"]}
    (home / "bench" / "recipe.json").write_text(json.dumps(recipe))
    (home / "bench" / "cells" / "1.json").touch()
    return home


def test_runs_and_edits_are_found_with_what_they_are(runs, model):
    rows = {row.path: row for row in found_below(runs)}
    assert set(rows) == {
        "attacked", "begun", "bench", "cat", "drawn", "evaluated", "gentle", "hurt", "kept/mine.safetensors",
        "measured/none", "measured/one", "measured/two",
    }  # fmt: skip
    cat = rows["cat"]
    assert (cat.run, cat.concepts, cat.method, cat.model, cat.status) == (
        "erase",
        ("cat",),
        "uce",
        str(model),
        "not yet verified",
    )
    assert cat.bytes == (runs / "cat" / "edit.safetensors").stat().st_size
    assert cat.created
    assert (rows["evaluated"].run, rows["evaluated"].method, rows["evaluated"].bytes) == ("evaluate", "uce", None)
    assert [rows[f"measured/{name}"].status for name in ("one", "two", "none")] == [
        "verified: 10 of 10 clean (at least 72 %)", "1 of 2 concepts verified", "UA 100.0 %",
    ]  # fmt: skip
    assert (rows["attacked"].concepts, rows["drawn"].concepts) == (("cat",), ())
    assert (rows["begun"].status, rows["hurt"].status) == ("unfinished", "damaged")
    assert rows["bench"].concepts == ("cat", "dog", "car")
    assert rows["bench"].status == "unfinished, 1 cell done"
    assert rows["kept/mine.safetensors"].run == "edit"


def test_list_prints_a_table_or_json(runs, excise, tmp_path, monkeypatch):
    status, out, err = excise("list", runs)
    assert (status, err) == (0, "")
    assert "unfinished" in out
    status, out, _ = excise("list", runs, "--json")
    assert (status, len(json.loads(out))) == (0, 12)
    monkeypatch.chdir(runs / "cat")
    assert json.loads(excise("list", "--json")[1])[0]["path"] == "."
    (tmp_path / "empty").mkdir()
    status, out, err = excise("list", tmp_path / "empty")
    assert (status, out, "no runs and no edits below" in err) == (0, "", True)
    status, _, err = excise("list", tmp_path / "missing")
    assert (status, err.count("\n")) == (2, 1)


def test_diff_says_in_one_sentence_how_far_two_edits_are_apart(runs, excise):
    cat, gentle = (runs / name / "edit.safetensors" for name in ("cat", "gentle"))
    status, out, err = excise("diff", cat, gentle)
    assert (status, err.count("\n")) == (0, 1)
    assert err.startswith("the edits differ: norms ")
    assert "cosine" in err
    assert "settings.ridge" in out
    status, out, _ = excise("diff", cat, gentle, "--json")
    document = json.loads(out)
    assert document["record"]["settings.ridge"]["two"] == 5
    assert 0 < document["cosine"] <= 1
    assert not document["same_tensors"]
    status, out, err = excise("diff", cat, runs / "kept" / "mine.safetensors")
    assert (status, out, err) == (0, "", "both edits change the model in exactly the same way\n")
    status, _, err = excise("diff", cat, runs / "none.safetensors")
    assert (status, "there is no edit file" in err) == (2, True)
