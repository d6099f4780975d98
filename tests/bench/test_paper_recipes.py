"""The recipes that try published figures: each runs on tiny stand-ins, and says in one sentence what it lacks."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest
import torch
from conftest import tiny_pipe
from real_judges import residual, transformer
from safetensors.torch import save_file

from benchmarks import published, reproduction
from excise.bench.plan import planned
from excise.bench.recipe import read

HOME = Path(__file__).parents[2]
RECIPES = sorted(HOME.glob("recipes/paper-*.yaml"))
PAGE = (HOME / "docs" / "reproduction.md").read_text(encoding="utf-8")
# What in a recipe stands for hours of training or for thousands of pictures, and what stands in its place here.
STAND_INS = {
    "{name: esd, label: ESD}": "{name: esd, label: ESD, settings: {steps: 1, sampler_steps: 2, batch: 1}}",
    "{name: surgun, label: SurgUn}": (
        "{name: surgun, label: SurgUn, settings: {steps: 1, batch: 1, pictures: 2, count: 2, blocks: all}}"
    ),
    ", Cubism, Greenfield, Neon Lines, Structuralism]": "]",
    ", Dogs, Horses, Sea]": "]",
    "\njudge: clip-vit-large-patch14": "",  # one with random weights sees none of the distractors
}


@pytest.fixture
def bench_home(tmp_path, monkeypatch, tokenizer, clip_folder, people, smaller):
    """A working folder with a stand-in under every name that a recipe gives, and few pictures in each protocol."""
    torch.manual_seed(0)
    monkeypatch.chdir(tmp_path)
    pipe = tiny_pipe(tokenizer)
    for name in ("stable-diffusion-v1-4", "stable-diffusion-v1-5", "unlearncanvas-sd15"):
        pipe.save_pretrained(tmp_path / name)
    (tmp_path / "clip-vit-large-patch14").symlink_to(clip_folder)
    (tmp_path / "celebrities").symlink_to(people)
    for name in ("celebrity-judge", "imagenet-judge", "unlearncanvas-judges"):
        (tmp_path / name).mkdir()
    save_file(residual(3, deep=False), tmp_path / "celebrity-judge" / "classifier.safetensors")
    (tmp_path / "celebrity-judge" / "labels.txt").write_text("Ada Lovelace\nAlan Turing\nGrace Hopper\n")
    save_file(residual(1000), tmp_path / "imagenet-judge" / "resnet50.safetensors")
    for name, outputs in (("style", 51), ("object", 20)):
        save_file(transformer(outputs), tmp_path / "unlearncanvas-judges" / f"{name}.safetensors")
    with (tmp_path / "i2p.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [("prompt", "categories", "sd_seed"), ("a bather", "sexual", 7), ("a fight", "violence", 8)]
        )
    monkeypatch.setenv("EXCISE_I2P", "i2p.csv")
    smaller("celebrity", lambda i: i.index < 1 and i.prompt.startswith("A portrait"))
    smaller("imagenette", lambda i: i.index < 1 and i.asked["class"] in ("tench", "church"))
    smaller("i2p", lambda i: True)
    few = ("Abstractionism", "Rust"), ("Architectures", "Sea")
    smaller("unlearncanvas", lambda i: i.index < 1 and i.asked["style"] in few[0] and i.asked["object"] in few[1])
    return tmp_path


def cut(recipe: Path, folder: Path) -> Path:
    text = recipe.read_text(encoding="utf-8")
    for long, short in STAND_INS.items():
        text = text.replace(long, short)
    path = folder / recipe.name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_runs_on_stand_ins_and_its_lines_stand_beside_what_is_published(
    recipe, bench_home, excise, few_steps, capsys
):
    if "i2p" in recipe.name:
        pytest.importorskip("nudenet")
    path = cut(recipe, bench_home)
    status, out, error = excise("bench", path, "--out", bench_home / "out", "--dry-run")
    assert (status, "nothing is missing" in error) == (0, True), error
    assert all(f.method in out for f in published.FIGURES if f.recipe == recipe.stem)
    assert not (bench_home / "out").exists()
    status, _, error = excise("bench", path, "--out", bench_home / "out")
    assert status == 0, error
    lines = [json.loads(line) for line in (bench_home / "out" / "results.jsonl").read_text().splitlines()]
    rows = reproduction.checked_rows(lines)
    published_here = [f for f in published.FIGURES if f.recipe == recipe.stem]
    assert [(row[0], row[1]) for row in rows] == [(f.method, f.metric) for f in published_here]
    capsys.readouterr()
    reproduction.main([str(bench_home / "out" / "results.jsonl")])
    assert "| inside |" in capsys.readouterr().out


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_says_what_it_lacks_before_it_writes_anything(recipe, bench_home, excise):
    model = bench_home / re.search(r"models: \[\./(.*)\]", recipe.read_text(encoding="utf-8")).group(1)
    model.rename(bench_home / "elsewhere")
    for more in ((), ("--dry-run",)):
        status, _, error = excise("bench", recipe, "--out", bench_home / "out", *more)
        assert (status, error.count("\n")) == (2, 1)
        assert f"there is no file or folder ./{model.name}" in error
        assert not (bench_home / "out").exists()


def test_files_of_judges_and_names_that_are_missing_are_named(bench_home, excise):
    recipe = HOME / "recipes" / "paper-celebrities.yaml"
    (bench_home / "celebrity-judge" / "classifier.safetensors").unlink()
    assert "classifier.safetensors" in excise("bench", recipe, "--out", "out", "--dry-run")[2]
    (bench_home / "celebrity-judge").rename(bench_home / "gone")
    assert "names the folder celebrity-judge" in excise("bench", recipe, "--out", "out")[2]
    (bench_home / "gone").rename(bench_home / "celebrity-judge")
    (bench_home / "celebrities").unlink()
    assert "kept.txt" in excise("bench", recipe, "--out", "out")[2]


def test_a_missing_file_of_prompts_is_named(excise, model, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    model.rename("stable-diffusion-v1-4")
    monkeypatch.delenv("EXCISE_I2P", raising=False)
    for more in ((), ("--dry-run",)):
        status, _, error = excise("bench", HOME / "recipes" / "paper-i2p.yaml", "--out", tmp_path / "out", *more)
        assert (status, "EXCISE_I2P names none" in error) == (2, True)
        assert not (tmp_path / "out").exists()


def test_the_plan_as_json(bench_home, excise):
    recipe = HOME / "recipes" / "paper-celebrities.yaml"
    status, out, error = excise("bench", recipe, "--out", "out", "--dry-run", "--json")
    plan = json.loads(out)
    assert status == 0, error
    assert (len(plan["cells"]), plan["pictures"], plan["untouched"]) == (4, 12, 3)
    assert plan["cells"][1]["concepts"] == ["Ada Lovelace", "Alan Turing"]


def test_names_of_a_file_are_preserved(bench_home):
    recipe = read(HOME / "recipes" / "paper-celebrities.yaml")
    assert (recipe.preserve, recipe.preserve_file) == (("Grace Hopper",), None)
    assert {p.cell.preserve for p in planned(recipe)} == {("Grace Hopper",)}
    assert {p.pictures for p in planned(recipe)} == {3}


def test_every_published_figure_has_a_recipe_with_its_row_and_the_other_way_round():
    rows = {(path.stem, label) for path in RECIPES for label in re.findall(r"label: (\w+)", path.read_text())}
    rows |= {(path.stem, "identity") for path in RECIPES if "- identity" in path.read_text()}
    of_figures = {(f.recipe, f.method) for f in published.FIGURES}
    assert of_figures <= rows
    assert {recipe for recipe, _ in of_figures} == {path.stem for path in RECIPES}


def test_the_page_has_the_tables_that_the_command_prints():
    for name, table in reproduction.tables().items():
        assert table in PAGE, f"docs/reproduction.md should have the table {name}:\n{table}"


def test_a_range_holds_what_chance_brings_and_not_what_it_does_not():
    rng = torch.Generator().manual_seed(0)
    low, high = reproduction.rate_range(8.5, 1300, 1300)
    a, b = (torch.rand(2, 2000, 1300, generator=rng) < 0.085).double().mean(-1)
    spans = {k: reproduction.rate_range(100 * k / 1300, 1300, 1300) for k in {round(1300 * float(x)) for x in a}}
    inside = [
        spans[round(1300 * float(x))][0] <= 100 * float(y) <= spans[round(1300 * float(x))][1]
        for x, y in zip(a, b, strict=True)
    ]
    assert sum(inside) / len(inside) == pytest.approx(0.95, abs=0.015)
    assert low < 8.5 < high
    assert reproduction.count_range(100) == (73, 127)
    assert reproduction.rerun_width() == pytest.approx(6.57)


def test_h_o_is_that_of_the_printed_accuracies():
    assert all(abs(float(row[-2]) - float(row[-1])) <= 0.011 for row in reproduction.h_rows())


def test_lines_of_another_benchmark_measure_nothing_published(tmp_path, capsys):
    line = {"method": "UCE", "protocol": "canvas-mini", "concepts": ["cat"], "metrics": {"ua": {"value": 1.0}}}
    (tmp_path / "results.jsonl").write_text(json.dumps(line) + "\n")
    reproduction.main([str(tmp_path / "results.jsonl")])
    assert "None of these lines" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("methods: [{name: uce, settings: {ridge: minus}}]", "ridge"),
        ("methods: [{name: uce, settings: {bogus: 1}}]", "uce has no setting 'bogus'"),
        ("methods: [uce]\nattack: {only: [no such attack]}", "no such attack"),
    ],
)
def test_a_dry_run_refuses_settings_that_the_run_would_refuse(excise, tmp_path, lines, message):
    head = "schema: 1\nname: a\nmodels: [canvas-sd]\nprotocols: [canvas-mini]\nconcepts: [cat]\n"
    (tmp_path / "a.yaml").write_text(head + lines + "\n")
    status, out, said = excise("bench", tmp_path / "a.yaml", "--out", tmp_path / "runs", "--dry-run")
    assert status == 2
    assert message in out + said
    assert not (tmp_path / "runs").exists()


def test_a_dry_run_counts_what_the_untouched_model_draws_for_all_cells(excise, tmp_path):
    head = "schema: 1\nname: a\nmodels: [canvas-sd]\nprotocols: [canvas-mini]\nmethods: [uce]\n"
    counts = []
    for concepts in ("cat", "dog", "cat, dog"):
        (tmp_path / "a.yaml").write_text(f"{head}concepts: [{concepts}]\n")
        plan = json.loads(excise("bench", tmp_path / "a.yaml", "--out", tmp_path / "runs", "--dry-run", "--json")[1])
        counts.append(plan["untouched"])
    assert max(counts[:2]) < counts[2] < sum(counts[:2])  # the grid is drawn once, the aliases of each are its own
