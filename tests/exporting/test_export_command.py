"""What `excise export` remembers of the run of an edit, and several exports from one loaded model."""

from __future__ import annotations

import json
from contextlib import suppress

import pytest
from dits import CASES, FIRST
from situations import uce

from excise import erase, load
from excise.cli.options import Source
from excise.edits.exports import PROGRAMS
from excise.edits.provenance import Evidence
from excise.errors import WrongBaseError
from excise.exporting import choose_format, export
from excise.families import family_of, outlined
from excise.support.digests import file_digest


@pytest.fixture
def loads(monkeypatch):
    """The options of every load of a model, and of every outline of one."""
    calls = []

    def watched(own):
        def call(model, **options):
            family = own(model, **options)
            if family is not None:
                calls.append({"model": str(model), **options})
            return family

        return call

    monkeypatch.setattr("excise.families.load", watched(load))
    monkeypatch.setattr("excise.families.outlined", watched(outlined))
    return calls


def test_the_load_options_of_the_run_are_remembered(excise, pipe, model, tmp_path, loads):
    single = export(uce(pipe), pipe, tmp_path / "single", "single-file").path
    out = tmp_path / "run"
    options = ("--config", model, "--dtype", "bfloat16", "--local-files-only")
    status, _, error = excise("erase", "--model", single, "-c", "cat", "--method", "uce", "--out", out, *options)
    assert status == 0, error
    status, _, error = excise("export", out / "edit.safetensors", "--out", tmp_path / "shipped")
    assert status == 0, error
    status, _, error = excise("update", out, "--add", "fox")
    assert status == 0, error
    status, _, error = excise("export", out / "edit.safetensors", "--out", tmp_path / "again", "--dtype", "float32")
    assert status == 0, error
    assert {c["config"] for c in loads} == {str(model)}
    assert [c["dtype"] for c in loads] == ["bfloat16", "bfloat16", "bfloat16", "float32"]
    assert all(c["local_files_only"] for c in loads)


def test_nothing_is_remembered_of_another_run(tmp_path):
    source = Source(dtype="float16")
    assert source.remembering(tmp_path / "edit.safetensors") == source
    for text in ("{", "[]", '{"load_options": "--variant fp16", "edit": "x/other.safetensors"}'):
        (tmp_path / "run.json").write_text(text)
        assert source.remembering(tmp_path / "edit.safetensors") == source
    (tmp_path / "run.json").write_text('{"load_options": "--variant fp16 --dtype float32 --device cuda:3 --old x"}')
    assert source.remembering(tmp_path / "edit.safetensors") == Source(dtype="float16", variant="fp16")


def test_several_programs_are_served_from_one_loaded_model(excise, model, tmp_path, loads):
    out = tmp_path / "run"
    assert excise("erase", "--model", model, "-c", "cat", "--method", "uce", "--out", out)[0] == 0
    loads.clear()
    edit = out / "edit.safetensors"
    status, text, error = excise(
        "export", edit, "--for", "comfyui", "--for", "diffusers", "--out", tmp_path / "shipped", "--json"
    )
    assert status == 0, error
    exports = json.loads(text)["exports"]
    assert [e["format"] for e in exports] == ["kohya-lora", "diffusers-lora"]
    assert len(loads) == 1
    cards = [tmp_path / "shipped" / name / "README.md" for name in ("comfyui", "diffusers")]
    assert [e["card"] for e in exports] == list(map(str, cards))
    status, text, _ = excise("export", edit, "--format", "merged", "--out", tmp_path / "one", "--json")
    assert json.loads(text)["path"] == str(tmp_path / "one")
    status, _, error = excise(
        "export", edit, "--for", "comfyui", "--for", "webui", "--format", "merged", "--format", "kohya-lora",
        "--out", tmp_path / "none",
    )  # fmt: skip
    assert status == 2
    assert "repeat one of them alone" in error
    assert not (tmp_path / "none").exists()


def test_a_policy_remembers_how_its_model_was_loaded(excise, model, tmp_path, loads):
    (tmp_path / "policy.yaml").write_text(f"schema: 1\nmodel: {model}\nmethods: {{default: uce}}\nconcepts: [cat]\n")
    status, _, error = excise("apply", tmp_path / "policy.yaml", "--out", tmp_path / "out", "--dtype", "bfloat16")
    assert status == 0, error
    status, _, error = excise("export", tmp_path / "out" / "edit.safetensors", "--out", tmp_path / "shipped")
    assert status == 0, error
    assert [c["dtype"] for c in loads] == ["bfloat16", "bfloat16"]


def test_a_run_folder_stands_for_its_edit(excise, model, tmp_path, loads):
    out = tmp_path / "run"
    assert excise("erase", "--model", model, "-c", "cat", "--method", "uce", "--dtype", "float16", "--out", out)[0] == 0
    made = loads[-1]
    status, _, error = excise("export", out, "--out", tmp_path / "shipped")
    assert status == 0, error
    assert {**loads[-1], "encodes": True}.items() <= made.items()  # in the precision of the run
    digest = file_digest(out / "edit.safetensors")
    assert digest in (tmp_path / "shipped" / "README.md").read_text()
    assert Evidence.of(out) == Evidence.of(out / "edit.safetensors") == Evidence(digest)
    source, folder = Source(), out
    assert source.remembering(folder) == source.remembering(folder / "edit.safetensors") == Source(dtype="float16")


def test_two_formats_for_one_program_have_a_folder_each(excise, model, tmp_path):
    out = tmp_path / "run"
    assert excise("erase", "--model", model, "-c", "cat", "--method", "uce", "--out", out)[0] == 0
    asked = ("--format", "single-file", "--format", "merged", "--for", "diffusers")
    status, _, error = excise("export", out / "edit.safetensors", *asked, "--out", tmp_path / "shipped")
    assert status == 0, error
    assert sorted(path.name for path in (tmp_path / "shipped").iterdir()) == ["merged", "single-file"]
    for folder in ("merged", "single-file"):
        assert (tmp_path / "shipped" / folder / "README.md").is_file()


@pytest.mark.parametrize("name", FIRST.values())
def test_programs_that_are_advised_take_the_edit(name):
    pipe = CASES[name].build()
    family, edit = family_of(pipe), erase(pipe, ["cat"], "uce", preserve=["dog"], vocabulary=None)
    refused = {}
    for program in PROGRAMS:
        with suppress(WrongBaseError):
            choose_format(edit, family, program)
            continue
        with pytest.raises(WrongBaseError) as error:
            choose_format(edit, family, program)
        refused[program] = str(error.value).rpartition("use --for ")[2].rstrip(".").split(", ")
    assert refused
    for advised in refused.values():
        assert advised
        assert not set(advised) & set(refused)


def test_no_file_is_promised_that_is_not_written(tmp_path):
    pipe = CASES["sd3"].build()
    edit = erase(pipe, ["cat"], "uce", preserve=["dog"], vocabulary=None)
    with pytest.raises(WrongBaseError, match="no single file of Stable Diffusion 3 is written here; use --format"):
        export(edit, pipe, tmp_path, "single-file")
