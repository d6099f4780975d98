"""EMMA, HUB and EraseEval by the command line, on a Stable Diffusion folder of random weights."""

from __future__ import annotations

import json
from pathlib import Path

import published
import pytest
from conftest import tiny_pipe

from excise import erase

pytestmark = pytest.mark.usefixtures("few_steps")


@pytest.fixture(scope="module")
def here(tokenizer, tmp_path_factory):
    """A model folder and an edit of it."""
    folder = tmp_path_factory.mktemp("published")
    pipe = tiny_pipe(tokenizer)
    pipe.save_pretrained(folder / "model")
    erase(pipe, ["Snoopy"], "uce").save(folder / "edit.safetensors")
    return folder


@pytest.fixture(autouse=True)
def files(tmp_path, monkeypatch):
    published.set_variables(monkeypatch, tmp_path / "published")
    nouns = tmp_path / "published" / "hub" / "prompts" / "pinpoint_ness" / "Snoopy.csv"
    nouns.write_text("noun,similarity\ndog,1\n")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def evaluate(excise, here):
    """A function that evaluates the edit on the model: exit status, output, messages."""
    made = ["--model", str(here / "model"), "--edit", str(here / "edit.safetensors")]
    return lambda *words: excise("evaluate", *made, *words)


@pytest.mark.parametrize(
    ("protocol", "metrics"),
    [
        ("emma", {"ua", "ira", "ira_near", "prefix_rate", "short_rate", "long_rate"}),
        ("hub", {"ua", "ira_near", "spanish_rate", "portuguese_rate", "attack_rate"}),
        ("eraseeval", {"ua", "implicit_rate", "reflected", "implicit_reflected", "alignment_kept", "quality_kept"}),
    ],
)
def test_a_published_protocol_runs_on_a_model_folder(evaluate, clip_folder, protocol, metrics):
    status, _, said = evaluate("--protocol", protocol, "--pictures", 2, "--judge", clip_folder, "--out", protocol)
    assert status == 0, said
    result = json.loads(Path(protocol, "run.json").read_text(encoding="utf-8"))
    assert result["protocol"] == protocol
    unseen = any(v["status"] == "not verifiable" for v in result["verdicts"])
    assert metrics - ({"ua"} if unseen else set()) <= set(result["metrics"])
    assert "<html" in Path(protocol, "report.html").read_text(encoding="utf-8")


def test_options_that_a_protocol_does_not_ask_by_are_refused(evaluate, tmp_path):
    (tmp_path / "mine.txt").write_text("a drawing of Snoopy\n")
    for protocol in ("hub", "emma", "eraseeval"):
        status, _, said = evaluate("--protocol", protocol, "--ask", "mine.txt")
        assert status == 2
        assert f"{protocol} has prompts of its own, so --ask cannot change it" in said
    assert "asks the same of every model" in evaluate("--protocol", "canvas-mini", "--pictures", 3)[2]


def test_missing_files_are_named_with_their_source(evaluate, monkeypatch):
    monkeypatch.delenv("EXCISE_HUB")
    status, _, said = evaluate("--protocol", "hub")
    assert status == 2
    assert "https://github.com/ml-postech/HUB" in said
    monkeypatch.delenv("EXCISE_COCO")
    status, _, said = evaluate("--protocol", "eraseeval")
    assert status == 2
    assert "export EXCISE_COCO=~/coco_1k.csv" in said
