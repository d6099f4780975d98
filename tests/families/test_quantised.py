"""Weights that are quantised are refused before anything is loaded, whoever quantised them; plain ones never are."""

from __future__ import annotations

import json
import shutil
import sys

import pytest
import torch
from dits import CASES
from safetensors.torch import load_file, save_file

from excise import load
from excise.errors import ModelError
from excise.families import quantised
from excise.families.load import check_model


@pytest.fixture
def folder(tmp_path):
    CASES["zimage"].build().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def rewritten(part, change) -> None:
    """The weights of a part of a folder, changed by a function of name and tensor to several of them."""
    (file,) = part.glob("*.safetensors")
    state = {k: t.contiguous() for name, w in load_file(file).items() for k, t in change(name, w).items()}
    save_file(state, file, {"format": "pt"})


def eight_bits(scale: str, kind: torch.dtype):
    """Matrices in eight bits, each with its scale under a name made of its own."""

    def change(name, weight):
        if weight.dim() != 2:
            return {name: weight}
        largest = 127 if kind == torch.int8 else 448
        size = weight.abs().max() / largest
        stored = (weight / size).round() if kind == torch.int8 else weight / size
        return {name: stored.to(kind), scale.format(name, name.removesuffix(".weight")): size}

    return change


@pytest.mark.parametrize("part", ["text_encoder", "transformer"])
@pytest.mark.parametrize(
    ("scale", "kind"),
    [
        ("{0}_scale", torch.float8_e4m3fn),
        ("{1}.scale_weight", torch.float8_e4m3fn),
        ("{1}.weight_scale_inv", torch.float8_e4m3fn),
        ("{1}.scales", torch.int8),
        ("{1}.unheard_of", torch.int8),
    ],
)
def test_a_part_with_scales_of_its_own_is_refused(folder, part, scale, kind):
    rewritten(folder / part, eight_bits(scale, kind))
    with pytest.raises(
        ModelError, match=f"the '{part}' in .* holds '.*quantised with scales of their own.*excise export"
    ):
        check_model(folder)


def test_a_file_with_scales_is_refused(folder, tmp_path):
    state = load_file(next((folder / "transformer").glob("*.safetensors")))
    for name, w in list(state.items()):
        state |= eight_bits("{1}.scale_weight", torch.float8_e4m3fn)(name, w)
    save_file(state, tmp_path / "one.safetensors")
    with pytest.raises(ModelError, match="one.safetensors holds '.*scale_weight'"):
        check_model(tmp_path / "one.safetensors", config=folder)


def test_the_parts_beside_a_file_are_looked_at_but_for_the_one_that_it_holds(folder, tmp_path):
    state = load_file(next((folder / "transformer").glob("*.safetensors")))
    save_file(state, tmp_path / "one.safetensors")
    shutil.rmtree(folder / "transformer")
    check_model(tmp_path / "one.safetensors", config=folder)
    rewritten(folder / "text_encoder", eight_bits("{1}.scales", torch.int8))
    with pytest.raises(ModelError, match="the 'text_encoder' in .* holds '"):
        check_model(tmp_path / "one.safetensors", config=folder)


def test_a_model_of_the_hub_is_looked_at_when_it_is_here(folder, monkeypatch):
    module = sys.modules["excise.families.load"]  # as an attribute of the package it is the function
    monkeypatch.setattr(module, "cached", lambda *_: folder)
    rewritten(folder / "text_encoder", eight_bits("{1}.scales", torch.int8))
    with pytest.raises(ModelError, match="the 'text_encoder' in .* holds '"):
        load("org/name", device="cpu", whole=False)


def test_names_that_only_look_like_scales_are_read(folder):
    rewritten(folder / "text_encoder", lambda name, w: {name: w, "logit_scale": torch.ones(())})
    check_model(folder)
    load(folder, device="cpu", whole=False)


def test_plain_eight_bits_are_read(folder):
    rewritten(folder / "transformer", lambda name, w: {name: w.to(torch.float8_e4m3fn) if w.dim() == 2 else w})
    check_model(folder)


def test_gguf_is_named(folder, tmp_path):
    file = tmp_path / "model-Q4.gguf"
    file.write_bytes(b"GGUF")
    with pytest.raises(ModelError, match=r"is quantised \(GGUF\).*excise export"):
        check_model(file)
    next((folder / "text_encoder").glob("*.safetensors")).unlink()
    (folder / "text_encoder" / "model-Q4.gguf").write_bytes(b"GGUF")
    with pytest.raises(ModelError, match=r"the 'text_encoder' in .* is quantised \(GGUF\).*excise export"):
        check_model(folder)


@pytest.mark.parametrize("part", ["text_encoder", "transformer"])
def test_a_part_whose_configuration_says_so_is_told_with_what_to_do(folder, part):
    """Its library is not installed here; what it says first is no help."""
    file = folder / part / "config.json"
    config = json.loads(file.read_text())
    how = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    file.write_text(json.dumps({**config, "quantization_config": how}))
    with pytest.raises(ModelError, match=rf"its '{part}' is quantised \(bitsandbytes\).*excise export"):
        load(folder, device="cpu", whole=False)


def test_a_part_without_its_folder_is_named(excise, folder, tmp_path):
    (folder / "text_encoder").rename(tmp_path / "elsewhere")
    status, _, error = excise("doctor", "--model", folder)
    assert status == 2
    assert "has no folder 'text_encoder', which its model_index.json names" in error


def test_every_tiny_model_is_plain(tmp_path):
    for name, case in CASES.items():
        case.build().save_pretrained(tmp_path / name)
        check_model(tmp_path / name)
        assert quantised.told_by_config(tmp_path / name) is None
        assert "transformer" in quantised.parts_of(tmp_path / name) or "unet" in quantised.parts_of(tmp_path / name)
