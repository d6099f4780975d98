"""Exports never write over a model or over what is another's, and hold the edit that was asked for alone."""

from __future__ import annotations

import pytest
import torch
from diffusers import AutoencoderTiny
from safetensors.torch import load_file, save_file
from situations import UNET_FORMATS, encoder_edit, same, state, uce

from excise import Edit, erase, load
from excise.edits.edit import applied_edits
from excise.edits.exports import export_name, located
from excise.errors import ModelError, OutputError, WrongBaseError
from excise.exporting import export
from excise.families import family_of


def contents(folder) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_merged_export_into_the_models_own_folder_is_refused(model, tmp_path, monkeypatch):
    family = load(model, device="cpu")
    edit, before = uce(family.pipe), contents(model)
    (tmp_path / "link").symlink_to(model)
    monkeypatch.chdir(tmp_path)
    for out in (model, "model/", tmp_path / "link"):
        with pytest.raises(OutputError, match="is the model itself, .* choose another --out"):
            export(edit, family, out, "merged")
    assert contents(model) == before


def test_a_merged_export_over_what_no_export_wrote_is_refused(make, tmp_path):
    pipe = make()
    edit = uce(pipe)
    pipe.save_pretrained(tmp_path / "model")
    pipe.unet.save_pretrained(tmp_path / "parts" / "unet")
    before = contents(tmp_path)
    for out, held in (("model", "model_index.json"), ("parts", "unet")):
        with pytest.raises(OutputError, match=f"{held} is there already .* move it away"):
            export(edit, pipe, tmp_path / out, "merged")
    assert contents(tmp_path) == before


def test_an_earlier_export_may_be_replaced_unless_it_is_the_model(make, tmp_path):
    pipe = make()
    edit = uce(pipe)
    for format in UNET_FORMATS:
        first = export(edit, pipe, tmp_path / format, format)
        names = contents(tmp_path / format).keys()
        assert export(edit, pipe, tmp_path / format, format).path == first.path
        assert contents(tmp_path / format).keys() == names
    family = load(tmp_path / "merged", device="cpu")
    again, before = uce(family.pipe), contents(tmp_path / "merged")
    with pytest.raises(OutputError, match="is the model itself"):
        export(again, family, tmp_path / "merged", "merged")
    assert contents(tmp_path / "merged") == before


def test_an_export_of_another_edit_is_replaced_only_where_that_is_asked(make, tmp_path):
    pipe = make()
    one, other = uce(pipe), erase(pipe, ["cat"], method="uce", vocabulary=None, ridge=5.0)
    for format in UNET_FORMATS:
        export(one, pipe, tmp_path / format, format)
        before = contents(tmp_path / format)
        with pytest.raises(OutputError, match=r"holds an export of another edit \(uce: cat\); choose another --out"):
            export(other, pipe, tmp_path / format, format)
        assert contents(tmp_path / format) == before
        export(other, pipe, tmp_path / format, format, force=True)
        assert contents(tmp_path / format) != before


@pytest.mark.parametrize("format", ["kohya-lora", "single-file"])
def test_exports_of_other_concepts_stand_side_by_side_under_their_names(make, tmp_path, format):
    """As they do in the one folder in which a program keeps such files."""
    pipe = make()
    cat = export(uce(pipe), pipe, tmp_path, format)
    before = cat.path.read_bytes()
    many = erase(pipe, ["Van Gogh", "dog", "car"], method="uce", vocabulary=None, kind="object")
    other = export(many, pipe, tmp_path, format)
    assert other.path.name.startswith("excise_van-gogh_and_2_more_")
    assert cat.path.read_bytes() == before
    assert located(tmp_path) == [cat.path, other.path]
    assert other.card is not None
    assert f"`{cat.path.name}` removes cat" in other.card.read_text()


@pytest.mark.parametrize("format", ["diffusers-lora", "kohya-lora", "single-file"])
def test_a_file_of_that_name_that_no_export_wrote_is_kept(make, tmp_path, format):
    pipe, file = make(), tmp_path / export_name(format, ["cat"])
    edit = uce(pipe)
    save_file({"weight": torch.ones(2)}, file)
    before = file.read_bytes()
    with pytest.raises(OutputError, match=f"{file.name} is there already"):
        export(edit, pipe, tmp_path, format)
    assert file.read_bytes() == before


def test_a_single_file_model_is_not_written_over(make, tmp_path):
    pipe = make()
    pipe.save_pretrained(tmp_path / "config")
    file = export(uce(pipe), pipe, tmp_path / "out", "single-file").path  # named as an export is
    family = load(file, device="cpu", config=tmp_path / "config", local_files_only=True)
    before = file.read_bytes()
    with pytest.raises(OutputError, match="is the model itself"):
        export(uce(family.pipe), family, tmp_path / "out", "single-file")
    assert file.read_bytes() == before


@pytest.mark.parametrize("format", ["merged", "single-file"])
def test_a_whole_model_holds_the_edit_alone_whatever_is_in_force(make, tmp_path, format):
    pipe = make()
    edit, other = encoder_edit(pipe), uce(pipe)
    wanted = export(edit, pipe, tmp_path / "wanted", format).path
    for applied, strength in ((other, 0.5), (edit, 1.0), (other, 2.0)):
        applied.apply(pipe, strength)
    before, layers = state(pipe), applied_edits(family_of(pipe))
    done = export(edit, pipe, tmp_path / "out", format)
    assert done.error < 1e-4
    assert same(state(pipe), before)
    assert applied_edits(family_of(pipe)) == layers
    files = [wanted] if format == "single-file" else sorted(wanted.rglob("*.safetensors"))
    for file in files:
        one, two = load_file(file), load_file(tmp_path / "out" / file.relative_to(tmp_path / "wanted"))
        assert one.keys() == two.keys()
        assert all(torch.equal(one[n], two[n]) for n in one)
    for applied in (other, edit, other):
        applied.remove(pipe)
    assert applied_edits(family_of(pipe)) == []


@pytest.mark.parametrize("part", ["text_encoder", "text_encoder_2", "vae"])
@pytest.mark.parametrize("format", ["merged", "single-file"])
def test_a_whole_model_has_every_part(make, tmp_path, format, part):
    pipe = make("sdxl")
    edit = uce(pipe)
    setattr(pipe, part, None)
    with pytest.raises(ModelError, match=f"was loaded without its '{part}'"):
        export(edit, pipe, tmp_path / "out", format)
    assert not (tmp_path / "out").exists()


def test_no_single_file_of_another_autoencoder(make, tmp_path):
    pipe = make()
    edit = uce(pipe)
    pipe.vae = AutoencoderTiny(
        encoder_block_out_channels=(8,),
        decoder_block_out_channels=(8,),
        num_encoder_blocks=(1,),
        num_decoder_blocks=(1,),
    )
    with pytest.raises(ModelError, match="vae is AutoencoderTiny, .* expected AutoencoderKL"):
        export(edit, pipe, tmp_path / "out", "single-file")
    assert not (tmp_path / "out").exists()
    assert export(edit, pipe, tmp_path / "merged", "merged").error < 1e-4


@pytest.mark.parametrize("format", ["diffusers-lora", "kohya-lora"])
def test_an_edit_of_nothing_is_no_lora(make, tmp_path, format):
    pipe = make()
    nothing = Edit(uce(pipe).record)
    with pytest.raises(WrongBaseError, match="changes no weight"):
        export(nothing, pipe, tmp_path / "out", format)
    assert not (tmp_path / "out").exists()
