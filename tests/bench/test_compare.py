"""Joining finished runs, and the verbs `compare` and `bench` as a person meets them. No model runs here."""

from __future__ import annotations

import csv
import json
import shutil
import sys
from dataclasses import replace

import pytest
from bench_data import bench, cell

from excise.bench import run as running
from excise.bench.read import RunError, read_run, read_runs
from excise.support.runs import write_run


def keep(folder, done) -> None:
    """A finished bench folder."""
    for d in done:
        running.keep(folder, d)
    running.write_results(folder, done)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A bench folder of three methods and the folder of one evaluation, with their cells."""
    home = tmp_path_factory.mktemp("runs")
    done = bench(home / "bench", ("identity", "speed", "uce"), ("cat",), oracle=False)
    keep(home / "bench", done)
    judged = cell(home / "judged", "surgun", "cat")
    for i, name in enumerate(judged.images):
        shutil.copy(home / "judged" / name, home / "judged" / "images" / f"{i:04d}.png")
    write_run(home / "judged", "evaluate", {**judged.result.model_dump(mode="json"), "edits": ["gone.safetensors"]})
    return home, done


def test_a_bench_folder_reads_back(made):
    home, done = made
    found = read_run(home / "bench")
    assert [d.cell for d in found] == [d.cell for d in done]
    assert [d.result for d in found] == [d.result for d in done]
    assert found[0].images[0] == str((home / "bench" / done[0].images[0]).resolve())


def test_an_evaluation_is_called_by_its_folder_where_its_edits_are_out_of_reach(made):
    home, _ = made
    (found,) = read_run(home / "judged")
    assert found.cell.method.title == "judged"
    assert found.cell.concepts == ("cat",)
    assert found.images[3].endswith("0003.png")


def test_an_evaluation_is_called_by_the_method_of_its_edit(made, tmp_path, pipe):
    from excise import erase

    home, _ = made
    edit = tmp_path / "edit.safetensors"
    erase(pipe, ["cat"], method="uce", preserve=["dog"]).save(edit)
    for edits, title in (([str(edit)], "uce"), ([], "no edit")):
        content = json.loads((home / "judged" / "run.json").read_text())
        write_run(tmp_path / "again", "evaluate", {**content, "edits": edits})
        (found,) = read_run(tmp_path / "again")
        assert found.cell.method.title == title


def test_two_runs_of_one_method_are_told_apart(made, tmp_path):
    home, done = made
    keep(tmp_path / "second", done[1:2])
    titles = [d.cell.method.title for d in read_runs([home / "bench", tmp_path / "second", home / "bench"])]
    assert titles == ["identity", "speed (bench)", "uce", "speed (second)"]


def test_what_is_no_run_is_said_in_one_sentence(made, tmp_path, excise):
    _, done = made
    (tmp_path / "empty").mkdir()
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "recipe.json").write_text("{}")
    write_run(tmp_path / "erased", "erase", {})
    keep(tmp_path / "hole", done[:2])
    (tmp_path / "hole" / "cells" / f"{done[1].cell.key}.json").unlink()
    keep(tmp_path / "cut", done[:1])
    (tmp_path / "cut" / "cells" / f"{done[0].cell.key}.json").write_text("{")
    keep(tmp_path / "none", [])
    for name, message in (
        ("missing", "is not a run folder"),
        ("empty", "is not a run folder: it holds neither results.jsonl"),
        ("begun", "is not finished"),
        ("erased", "is a run of excise erase"),
        ("hole", "lacks"),
        ("cut", "is damaged"),
        ("none", "has no results"),
    ):
        with pytest.raises(RunError, match=message):
            read_run(tmp_path / name)
        status, out, err = excise("compare", tmp_path / name, "--out", tmp_path / "x.html")
        assert (status, out, len(err.strip().splitlines())) == (2, "", 1)
        assert message in err
    assert not (tmp_path / "x.html").exists()


def test_different_protocols_are_refused(made, tmp_path, excise):
    home, done = made
    changed = {"hash": "0" * 64, "protocol_summary": {**done[0].result.protocol_summary, "steps": 50}}
    keep(tmp_path / "other", [replace(done[0], result=done[0].result.model_copy(update=changed))])
    status, _, err = excise("compare", home / "bench", tmp_path / "other", "--out", tmp_path / "x.html")
    assert status == 2
    assert "they differ in steps: 12 and 50" in err


def test_images_outside_a_run_are_not_shown(made, tmp_path):
    _, done = made
    keep(tmp_path / "sly", [replace(done[0], images=["../secret.png"] * 240)])
    (found,) = read_run(tmp_path / "sly")
    assert set(found.images) == {str(tmp_path / "sly" / "images" / "outside")}


def test_compare_writes_a_page_or_a_table(made, tmp_path, excise):
    home, _ = made
    runs = (home / "bench", home / "judged")
    status, out, err = excise("compare", *runs, "--out", tmp_path / "c.html")
    assert status == 0, err
    assert "identity" in out
    assert "(control)" in out
    text = (tmp_path / "c.html").read_text()
    assert "Comparison of bench, judged" in text
    assert text.count("data:image/webp;base64,") == 2 * 6 * 4
    status, out, _ = excise("compare", *runs, "--out", tmp_path / "c.md", "--json")
    document = json.loads(out)
    assert (status, len(document["cells"]), document["protocol"]) == (0, 4, "canvas-mini")
    assert [m["method"] for m in document["means"]] == ["identity", "speed", "uce", "judged"]
    assert document["means"][1]["metrics"]["ua"]["n"] == 10
    assert (tmp_path / "c.md").read_text().startswith("Protocol canvas-mini")
    assert excise("compare", *runs, "--out", tmp_path / "c.tex")[0] == 0
    assert r"\begin{tabular}" in (tmp_path / "c.tex").read_text()
    assert document["means"][1]["metrics"]["seconds_drawing"]["value"] > 0
    for name in ("c.xlsx", "c", "c.txt"):
        status, _, err = excise("compare", *runs, "--out", tmp_path / name)
        assert (status, "tells no format; expected .html, .md, .csv, .tex" in err, (tmp_path / name).exists()) == (
            2,
            True,
            False,
        )
    excise("compare", *runs, "--out", tmp_path / "c.txt", "--format", "csv")
    assert len(list(csv.DictReader((tmp_path / "c.txt").open()))) == 4
    status, _, err = excise("compare", *runs, "--out", tmp_path / "c.html", "--format", "pdf")
    assert (status, "no format 'pdf'" in err) == (2, True)


@pytest.mark.parametrize("name", ["c.html", "c.md", "c.csv", "c.tex"])
def test_a_table_of_other_runs_is_not_replaced(made, tmp_path, excise, name):
    home, _ = made
    out = ("--out", tmp_path / name)
    for _ in range(2):  # the same again is no other
        status, _, err = excise("compare", home / "bench", *out)
        assert status == 0, err
    before = (tmp_path / name).read_bytes()
    status, _, err = excise("compare", home / "bench", home / "judged", *out)
    assert (status, "is there already and shows other runs" in err) == (2, True), err
    assert (tmp_path / name).read_bytes() == before
    assert excise("compare", home / "bench", home / "judged", *out, "--force")[0] == 0
    assert (tmp_path / name).read_bytes() != before


def test_a_bench_takes_no_cell_of_another_recipe_from_its_page(made, recipe, tmp_path, excise, monkeypatch):
    home, done = made
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setattr(running, "run", lambda *_, **__: done)
    shutil.copytree(home / "bench", tmp_path / "b")
    before = (tmp_path / "b" / "results.jsonl").read_bytes()
    (tmp_path / "one.yaml").write_text("schema: 1\nmethods: [identity]\nconcepts: [cat]\n")
    status, _, err = excise("bench", tmp_path / "one.yaml", "--out", tmp_path / "b")
    assert (status, "holds 2 cells of another recipe (speed: cat)" in err) == (2, True), err
    assert (tmp_path / "b" / "results.jsonl").read_bytes() == before
    assert not (tmp_path / "b" / "report.html").exists()
    assert excise("bench", tmp_path / "one.yaml", "--out", tmp_path / "b", "--force")[0] == 0
    assert excise("bench", recipe, "--out", tmp_path / "b")[0] == 0  # all that is there is asked for


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text("schema: 1\nname: small\nmethods: [identity, speed, uce]\nconcepts: [cat]\n")
    return path


def test_bench_writes_page_and_tables(made, recipe, tmp_path, excise, monkeypatch):
    home, done = made
    asked: dict = {}

    def run(wanted, out, *, workers=None, bar=None, say):
        asked.update(name=wanted.name, out=out, workers=workers, bar=bar)
        shutil.copytree(home / "bench", out)
        return done

    monkeypatch.setattr(running, "run", run)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    status, out, err = excise("bench", recipe, "--out", tmp_path / "b")
    assert status == 0, err
    assert "speed" in out
    assert asked["workers"] is None
    assert asked["bar"] is not None
    text = (tmp_path / "b" / "report.html").read_text()
    assert "<title>small</title>" in text
    assert f"excise bench {recipe} --out {tmp_path / 'b'}" in text
    assert "| speed | cat |" in (tmp_path / "b" / "table.md").read_text()
    assert len((tmp_path / "b" / "table.csv").read_text().splitlines()) == 4


def test_bench_json_and_several_protocols(made, recipe, tmp_path, excise, monkeypatch):
    home, done = made
    other = replace(done[1], result=done[1].result.model_copy(update={"hash": "1" * 64, "protocol": "other"}))
    monkeypatch.setattr(running, "run", lambda wanted, out, **_: [*done, other])
    status, out, _ = excise("bench", recipe, "--out", home / "bench", "--json")
    document = json.loads(out)
    assert (status, document["cells"], len(document["means"])) == (0, 4, 4)
    assert (home / "bench" / "table-other.md").exists()
    assert (home / "bench" / "table-canvas-mini.csv").exists()


def test_bench_among_several_processes_speaks_once(recipe, made, tmp_path, excise, monkeypatch):
    _, done = made
    from excise.families.drawing import Workers

    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(running, "run", lambda wanted, out, *, workers, **_: done)
    for rank in (0, 1):
        monkeypatch.setattr(running, "processes", lambda rank=rank: Workers(rank, 2))
        status, out, _ = excise("bench", recipe, "--out", tmp_path / f"r{rank}", "--json")
        assert status == 0
        assert (out == "", (tmp_path / f"r{rank}").exists()) == (rank == 1, rank == 0)


def test_bench_bad_requests(recipe, tmp_path, excise):
    status, _, err = excise("bench", recipe, "--out", tmp_path / "b", "--engine", "raay")
    assert (status, "Did you mean 'ray'?" in err) == (2, True)
    status, _, err = excise("bench", tmp_path / "none.yaml", "--out", tmp_path / "b")
    assert (status, "cannot read the recipe" in err) == (2, True)
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("args", [["bench", "--help"], ["compare", "--help"]])
def test_help_does_not_import_torch(args):
    import subprocess

    code = (
        f"import sys; sys.argv = ['excise', *{args!r}]\n"
        "from excise.cli.main import run\n"
        "try:\n    run()\nexcept SystemExit:\n    pass\n"
        "assert not {'torch', 'diffusers', 'yaml', 'jinja2'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
