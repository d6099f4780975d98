"""An export tells what it is: inspect shows it as it shows an edit, and import gives the edit back."""

from __future__ import annotations

import json

import pytest
import torch
from checks import check
from safetensors.torch import save_file
from situations import UNET_FORMATS, encoder_edit, uce

from excise import erase, export
from excise.edits import verified
from excise.edits.edit import Edit
from excise.edits.exports import located, read_export
from excise.edits.provenance import MARK, RECORD
from excise.errors import ConceptError, EditFileError
from excise.importing.import_edit import import_edit


@pytest.mark.parametrize("format", UNET_FORMATS)
def test_every_format_is_inspected_like_its_edit(excise, pipe, tmp_path, format):
    edit = uce(pipe)
    file = edit.save(tmp_path / "run" / "edit.safetensors")
    verified.keep(file, check())
    done = export(edit, pipe, tmp_path / "out", format, source=file)
    status, text, error = excise("inspect", done.path, "--json")
    assert status == 0, error
    shown = json.loads(text)
    status, text, _ = excise("inspect", file, "--json")
    own = json.loads(text)
    assert shown["record"] == own["record"]
    assert shown["verified"] == own["verified"] != []
    assert (shown["format"], shown["edit"]) == (format, verified.file_digest(file))
    if format.endswith("lora"):
        assert len(shown["delta"]["modules"]) == len(own["delta"]["modules"])
        assert shown["delta"]["rank"] == done.rank
    status, text, _ = excise("inspect", tmp_path / "out")  # the folder does as well
    words = " ".join(text.split())
    for part in ("cat (object, read as nothing (the empty prompt))", "uce, seed 0", "10 of 10 clean", format):
        assert part in words
    assert ("whole model" in words) is not format.endswith("lora")


def test_markers_are_no_changes(pipe, tmp_path):
    edit = encoder_edit(pipe)
    only_encoder = Edit(edit.record, (), {p: d for p, d in edit.modules.items() if p.startswith("text_encoder.")})
    shipped = read_export(export(only_encoder, pipe, tmp_path, "kohya-lora").path)
    assert shipped is not None
    assert len(shipped.modules) == 1


def test_what_carries_no_record_is_refused_in_a_sentence(excise, pipe, tmp_path):
    save_file({"a": torch.ones(2)}, tmp_path / "other.safetensors")
    for path, message in (
        (tmp_path / "other.safetensors", "but not an edit"),
        (tmp_path / "none", "there is no file or folder"),
        (tmp_path, "holds neither an edit"),
    ):
        status, _, error = excise("inspect", path)
        assert status == 2
        assert message in error
    save_file({"a": torch.ones(2)}, tmp_path / "spoilt.safetensors", metadata={RECORD: '{"excise": 1}'})
    with pytest.raises(EditFileError, match="cannot be read; it was changed"):
        read_export(tmp_path / "spoilt.safetensors")
    (tmp_path / "merged").mkdir()
    (tmp_path / "merged" / MARK).write_text("{")
    with pytest.raises(EditFileError, match="cannot be read; it was changed"):
        read_export(tmp_path / "merged")
    edit = uce(pipe)
    export(edit, pipe, tmp_path / "two", "kohya-lora")
    export(edit, pipe, tmp_path / "two", "diffusers-lora")
    assert [path.name for path in located(tmp_path / "two")] == [
        "excise_cat_kohya_lora.safetensors", "pytorch_lora_weights.safetensors",
    ]  # fmt: skip


@pytest.mark.parametrize("format", ["kohya-lora", "diffusers-lora", "merged"])
def test_an_export_comes_back_with_its_record(pipe, tmp_path, format):
    edit = erase(pipe, ["cat", "car"], "uce", preserve=["dog"], vocabulary=None)
    again = import_edit(export(edit, pipe, tmp_path, format).path, pipe)
    assert again.record.model_copy(update={"measured": {}}) == edit.record.model_copy(update={"measured": {}})
    assert again.paths == edit.paths
    named = import_edit(export(edit, pipe, tmp_path, format).path, pipe, ["something"])
    assert (named.record.method, named.record.concepts[0].name) == ("imported", "something")


def test_a_file_of_another_tool_must_be_named(pipe, tmp_path):
    done = export(uce(pipe), pipe, tmp_path, "kohya-lora")
    from safetensors.torch import load_file

    save_file(load_file(done.path), tmp_path / "bare.safetensors")
    with pytest.raises(ConceptError, match="name that with --concept"):
        import_edit(tmp_path / "bare.safetensors", pipe)
