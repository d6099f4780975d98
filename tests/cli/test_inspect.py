"""`excise inspect` of runs without an edit, of folders for several programs, and of what is not verifiable."""

from __future__ import annotations

import json

import pytest

from excise import erase
from excise.edits import verified
from excise.evaluation.verdict import NEXT_STEP

pytestmark = pytest.mark.usefixtures("few_steps")


@pytest.fixture
def edit(pipe, tmp_path, model):
    return erase(pipe, ["cat"], "uce", vocabulary=None, model_name=str(model)).save(tmp_path / "run/edit.safetensors")


def shown(excise, *words):
    status, out, err = excise("inspect", *words)
    assert status == 0, err
    return " ".join(out.split())


def test_a_run_whose_gate_failed_says_so_and_with_other_gates_anew(excise, edit, model, tmp_path):
    words = ("evaluate", "--model", model, "--edit", edit, "--protocol", "concept", "--pictures", 1, "-p", "dog")
    words += ("--out", tmp_path / "seen")
    assert excise(*words, "--require", "drift>=2")[0] == 1
    text = shown(excise, tmp_path / "seen")
    for part in ("excise evaluate", "cat", "gates drift>=2 FAILED"):
        assert part in text
    assert str(model) in text.replace(" ", "")  # long paths are wrapped
    assert json.loads(excise("inspect", tmp_path / "seen", "--json")[1])["gates"] == [
        {"gate": "drift>=2", "metric": "drift", "passed": False}
    ]
    assert "drift>=2 FAILED" in shown(excise, edit.parent)
    assert excise(*words, "--require", "drift<=2")[0] == 0  # answered from what is there
    assert "gates drift<=2 passed" in shown(excise, tmp_path / "seen")
    assert excise(*words)[0] == 0
    assert "none required" in shown(excise, tmp_path / "seen")


def test_a_folder_of_exports_for_several_programs_lists_each(excise, edit, model, tmp_path):
    together, apart = tmp_path / "together", tmp_path / "apart"
    for_all = ("--for", "comfyui", "--for", "diffusers")
    assert excise("export", edit, "--model", model, *for_all, "--out", apart)[0] == 0
    for format in ("kohya-lora", "diffusers-lora"):
        assert excise("export", edit, "--model", model, "--format", format, "--out", together)[0] == 0
    text = shown(excise, together)
    for part in (
        "excise_cat_kohya_lora.safetensors",
        "pytorch_lora_weights.safetensors",
        "kohya-lora",
        "diffusers-lora",
    ):
        assert part in text
    assert text.count("cat (object") == 2
    assert shown(excise, apart).count("cat (object") == 2
    documents = json.loads(excise("inspect", apart, "--json")[1])["files"]
    assert [d["record"]["concepts"][0]["name"] for d in documents] == ["cat", "cat"]
    assert all("comfyui" in d["file"] or "diffusers" in d["file"] for d in documents)


def test_what_is_not_verifiable_is_said_once_with_a_next_step(excise, edit):
    sentence = "not verifiable: the untouched model shows it in none of 10 pictures"
    for hash, gate in (("a", "ua>=0.5"), ("b", "ua>=0.7")):
        check = verified.Check(
            **verified.now(), command="evaluate", model="m", protocol="concept", hash=hash * 64, judge="clip",
            concepts=("cat",), verdicts={"cat": sentence},
            gates=(verified.Gate(gate=gate, metric="ua", passed=False),),
        )  # fmt: skip
        verified.keep(edit, check)
    text = shown(excise, edit)
    assert text.count(sentence) == text.count(NEXT_STEP) == 1
    assert "gate ua>=0.5 FAILED: not measured" in text
    assert "gate ua>=0.7 FAILED: not measured" in text


def test_an_export_for_a_program_says_where_its_file_goes(excise, edit, model, tmp_path):
    status, _, err = excise("export", edit, "--model", model, "--for", "comfyui", "--out", tmp_path / "shipped")
    assert status == 0, err
    assert "load it:    ComfyUI: put excise_cat_kohya_lora.safetensors into models/loras, load the checkpoint" in err
    assert "file of model (one file, not the folder of diffusers)" in err
