"""The walk-throughs: every command of a page runs, in the page's order, with small stand-ins for what the page names.

A page's lines are run as they stand but for the replacements in `PAGES`. Models, CLIP and classifiers are random, so
what is held here is that each command ends well (gates may fail, since nothing is drawn that a judge knows), writes
what the page says, and that strength 0 is no edit.
"""

from __future__ import annotations

import csv
import hashlib
import shlex
from pathlib import Path

import pytest
import torch
import yaml
from conftest import tiny_pipe, tiny_sdxl
from dits import CASES
from documented import blocks, files, lines
from real_judges import PEOPLE, giphy_folder, residual
from safetensors.torch import save_file

from excise.attacks import suite

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "walkthroughs"
SET_UP = ("git clone", "cd excise", "python3 -m venv", ". .venv", "pip install")
"""How lines begin that set up a machine; they are not run."""
CUT = {
    "--steps 25": "--steps 2",
    "--steps 28": "--steps 2",
    "--steps 30": "--steps 2",
    "--count 4": "--count 1",
    "--count 2": "--count 1",
    "--suite quick": "--suite quick --tests 1 --images 1 --set iterations=1 --set steps=1",
}
PAGES = {
    "explicit-content": {**CUT, '"ua>=0.9"': '"ua>=0.1"'},
    "a-celebrity": {**CUT, "--judge faces ": "--judge faces:detector=nudenet "},  # whose package the tests have
    "an-artists-style": CUT,
    "a-hundred-names": {
        **CUT,
        "--edit runs/hundred ": "--edit runs/hundred --model ./stable-diffusion-v1-5 --judge ./clip-vit-large-patch14 ",
    },
}
"""By page, what stands in the place of a text in its commands."""
POLICY = {
    "model: canvas-sd\n": "model: ./stable-diffusion-v1-5\n",
    "vocabulary: canvas\n": "vocabulary: none\npreserve: [dog, tree]\n",
    "pictures: 10": "pictures: 4",
    "gates: {erased: 0.5, retained: 0.65}": "gates: {erased: 0, retained: 0}",
}
"""The same in policies; of a model that is not built in, nothing is verified without a judge."""


class Seeing:
    """A judge that also sees what is asked for in every second picture, for what nobody draws cannot be attacked."""

    def __init__(self, judge):
        self.judge, self.name = judge, judge.name

    def sees(self, images, names):
        told = self.judge.sees(images, names)
        return [saw or hashlib.sha256(i.tobytes()).digest()[0] % 2 == 0 for saw, i in zip(told, images, strict=True)]


def replaced(text: str, stand_ins: dict[str, str]) -> str:
    for long, short in stand_ins.items():
        text = text.replace(long, short)
    return text


@pytest.fixture
def fresh(tmp_path, monkeypatch, tokenizer, clip_folder, people, smaller, few_steps):
    """A working folder with a stand-in under every name that the pages give."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    (tmp_path / "clip-vit-large-patch14").symlink_to(clip_folder)
    (tmp_path / "celebrities").symlink_to(people)
    (tmp_path / "celebrity-judge").mkdir()
    save_file(residual(3, deep=False), tmp_path / "celebrity-judge" / "classifier.safetensors")
    (tmp_path / "celebrity-judge" / "labels.txt").write_text("\n".join([*PEOPLE["erased"], *PEOPLE["kept"]]))
    giphy_folder(tmp_path / "giphy" / "resources", sorted([*PEOPLE["erased"], *PEOPLE["kept"]]))
    smaller("celebrity", lambda item: item.index < 1)
    as_scorer = suite.as_scorer
    monkeypatch.setattr(suite, "as_scorer", lambda *a, **k: (judge := as_scorer(*a, **k)) and Seeing(judge))
    with (tmp_path / "i2p.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("prompt", "categories", "sd_seed"), ("a bather", "sexual", 7)])

    def save(name: str) -> None:
        builders = {"stable-diffusion-v1-5": tiny_pipe, "stable-diffusion-xl-base-1.0": tiny_sdxl}
        pipe = builders[name](tokenizer) if name in builders else CASES["flux-dev"].build()
        pipe.save_pretrained(tmp_path / name)

    return save


def walk(name, excise, monkeypatch) -> None:
    """Run every line of a page."""
    page = FOLDER / f"{name}.md"
    for file, text in files(page).items():
        Path(file).write_text(text, encoding="utf-8")
    for line in lines(page):
        if line.startswith(SET_UP):
            continue
        if line.startswith("export "):
            variable, _, value = line.removeprefix("export ").partition("=")
            monkeypatch.setenv(variable, value)
            continue
        program, *args = shlex.split(replaced(line, PAGES[name]))
        assert program == "excise", f"{page.name} has a line that nobody runs: {line}"
        status, _, error = excise(*args)
        gated = "--require" in args or args[0] == "apply"
        assert status in ((0, 1) if gated else (0,)), f"{line}: {error}"  # 1 is a failed gate's alone


def pictures(folder: str) -> dict[str, bytes]:
    found = {path.name: path.read_bytes() for path in Path(folder).rglob("*.png")}
    assert found, f"{folder} has no pictures"
    return found


def test_every_page_is_walked_and_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert {page.stem for page in FOLDER.glob("*.md")} == set(PAGES)
    assert all(f"walkthroughs/{name}.md" in navigation for name in PAGES)


def test_stand_ins_stand_for_something():
    """What no page says any more is taken out of the tables above."""
    said = "\n".join(line for name in PAGES for line in lines(FOLDER / f"{name}.md"))
    assert all(text in said for stand_ins in PAGES.values() for text in stand_ins)
    policies = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "recipes" / "policy").glob("hundred*.yaml"))
    assert all(text in policies for text in POLICY)


def test_explicit_content(fresh, excise, monkeypatch):
    pytest.importorskip("nudenet")
    fresh("stable-diffusion-v1-5")
    walk("explicit-content", excise, monkeypatch)
    for made in ("runs/nudity-gone", "runs/nudity-rest", "runs/nudity-i2p", "runs/nudity-attacked"):
        assert (Path(made) / "report.html").exists()
    assert len(list(Path("shipped").rglob("*.safetensors"))) == 2
    assert pictures("looks/undone") == pictures("looks/before") != pictures("looks/after")


def test_a_celebrity(fresh, excise, monkeypatch):
    pytest.importorskip("nudenet")
    fresh("stable-diffusion-xl-base-1.0")
    walk("a-celebrity", excise, monkeypatch)
    for made in ("runs/person-evaluation", "runs/person-faces", "runs/person-celebrity", "runs/person-attacked"):
        assert (Path(made) / "report.html").exists()
    assert pictures("looks/undone") == pictures("looks/before") != pictures("looks/after")


def test_an_artists_style(fresh, excise, monkeypatch):
    fresh("FLUX.1-dev")
    walk("an-artists-style", excise, monkeypatch)
    for made in ("runs/style-evaluation", "runs/style-attacked"):
        assert (Path(made) / "report.html").exists()
    assert pictures("looks/undone") == pictures("looks/before") != pictures("looks/after")


def test_a_hundred_names(fresh, excise, monkeypatch):
    fresh("stable-diffusion-v1-5")
    Path("recipes/policy").mkdir(parents=True)
    sizes = {"hundred.yaml": 100, "hundred-less-one.yaml": 99, "none.yaml": 0}
    for policy in (ROOT / "recipes" / "policy" / name for name in sizes):
        text = replaced(policy.read_text(encoding="utf-8"), POLICY)
        assert len(yaml.safe_load(text)["concepts"]) == sizes[policy.name]
        Path("recipes/policy", policy.name).write_text(text, encoding="utf-8")
    (own,) = blocks(FOLDER / "a-hundred-names.md", "yaml")
    Path("policy.yaml").write_text(replaced(own, POLICY), encoding="utf-8")
    Path("keep.txt").write_text("Tom Hanks\n", encoding="utf-8")
    walk("a-hundred-names", excise, monkeypatch)
    entries = [yaml.safe_load(line) for line in Path("runs/hundred/ledger.jsonl").read_text().splitlines()]
    edits = [entry["edit"] for entry in entries]
    assert edits[0] == edits[2] != edits[1]
    assert edits[3:] == [None]
    assert not Path("runs/hundred/edit.safetensors").exists()
    assert "tulip" in Path("audit.html").read_text(encoding="utf-8")
    assert pictures("looks/undone") != pictures("looks/after")
