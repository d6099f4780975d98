"""A transformer in one file beside a folder of the other parts: the model that the folder alone would be."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from dits import CASES
from safetensors.torch import load_file, save_file

from excise import erase, load
from excise.errors import ModelError
from excise.families import family_name_of
from excise.families.networks import parameters
from excise.families.partial import original, source_of
from excise.families.transformer_names import original_pieces, stacked

ORIGINAL = ["flux-dev", "zimage", "flux2-dev", "qwenimage"]
PLAIN = ["sd3", "chroma", "krea2", "lumina2"]
PREFIX = {"flux-dev": "model.diffusion_model.", "zimage": "", "flux2-dev": "", "qwenimage": "model.diffusion_model."}
MORE = {"zimage": {"norm_final.weight": torch.ones(4)}, "flux-dev": {"vae.decoder.conv_in.weight": torch.ones(4)}}


@pytest.fixture
def folder(request, tmp_path):
    pipe = CASES[request.param].build()
    pipe.save_pretrained(tmp_path / "folder")
    return tmp_path / "folder"


def weights(folder):
    return {k: v for file in sorted((folder / "transformer").glob("*.safetensors")) for k, v in load_file(file).items()}


def write(folder, name, change=lambda state: None):
    """The folder's transformer as one file of the original layout, with its weights in the folder gone."""
    own, family = weights(folder), CASES[name].family
    state = {k: stacked(row, own).contiguous() for k, row in original_pieces(family, own).items()}
    state = {PREFIX[name] + k: v.clone() for k, v in state.items()} | MORE.get(name, {})
    change(state)
    file = folder.parent / "model.safetensors"
    save_file(state, file)
    for old in (folder / "transformer").glob("*.safetensors"):
        old.unlink()
    return file


def both(names):
    return pytest.mark.parametrize(("folder", "name"), [(n, n) for n in names], indirect=["folder"])


@both(ORIGINAL)
def test_weights_of_the_original_layout_are_read_one_by_one(folder, name):
    own = weights(folder)
    file = write(folder, name)
    assert family_name_of(file) == CASES[name].family
    family = load(file, config=folder, device="cpu", dtype="float32", whole=False)
    assert source_of(family.denoiser) is not None
    for path in parameters(family.denoiser):
        assert torch.equal(original(family.denoiser, path), own[path]), path


@both(ORIGINAL[:2])
def test_edits_and_pictures_are_those_of_the_folder(folder, name):
    plain = load(folder, device="cpu", dtype="float32")
    theirs = erase(plain, ["cat"], method="uce", preserve=["dog"])
    drawn = plain.sample(["a dog"], [0], steps=2, guidance=1.0, batch=1)[0]
    file = write(folder, name)
    family = load(file, config=folder, device="cpu", dtype="float32", whole=False)
    ours = erase(family, ["cat"], method="uce", preserve=["dog"])
    assert set(ours.paths) == set(theirs.paths)
    assert ours.tensors().keys() == theirs.tensors().keys()
    for key, tensor in ours.tensors().items():
        assert torch.equal(tensor, theirs.tensors()[key])
    again = load(file, config=folder, device="cpu", dtype="float32")
    assert source_of(again.denoiser) is None
    picture = again.sample(["a dog"], [0], steps=2, guidance=1.0, batch=1)[0]
    assert np.abs(np.asarray(picture).astype(int) - np.asarray(drawn).astype(int)).max() <= 1


@both(PLAIN)
def test_a_file_with_the_names_of_diffusers_is_read_too(folder, name):
    own = weights(folder)
    file = folder.parent / "model.safetensors"
    save_file(own, file)
    family = load(file, config=folder, device="cpu", dtype="float32")
    for path, weight in parameters(family.denoiser).items():
        assert torch.equal(weight, own[path]), path


@both(["flux-dev"])
def test_what_does_not_belong_together_is_refused(folder, name, tmp_path):
    file = write(folder, name)
    with pytest.raises(ModelError, match=r"holds the transformer of FLUX alone; name a diffusers folder .* --config"):
        load(file, device="cpu")
    CASES["zimage"].build().save_pretrained(tmp_path / "other")
    with pytest.raises(ModelError, match="is a model of the family zimage; give a diffusers folder of FLUX"):
        load(file, config=tmp_path / "other", device="cpu")


@both(["flux-dev"])
def test_a_file_that_is_quantised_with_scales_is_refused(folder, name):
    def scaled(state):
        state[PREFIX[name] + "double_blocks.0.img_attn.qkv.scale_weight"] = torch.ones(1)

    file = write(folder, name, scaled)
    with pytest.raises(ModelError, match=r"scale_weight', as weights do that are quantised"):
        load(file, config=folder, device="cpu", whole=False)


@both(["flux-dev"])
def test_a_file_of_another_variant_is_refused(folder, name):
    def shorter(state):
        state[PREFIX[name] + "txt_in.weight"] = state[PREFIX[name] + "txt_in.weight"][:, :-1].clone()

    file = write(folder, name, shorter)
    with pytest.raises(ModelError, match="belongs to another model"):
        load(file, config=folder, device="cpu", whole=False)


@both(["flux-dev"])
def test_the_folder_may_come_from_the_hub(folder, name, tmp_path, monkeypatch):
    file, other = write(folder, name), tmp_path / "other"
    CASES["zimage"].build().save_pretrained(other)
    repositories = {"maker/flux": folder, "maker/another": other}
    monkeypatch.setattr(DiffusionPipeline, "download", lambda repository, **_: str(repositories[repository]))
    assert source_of(load(file, config="maker/flux", device="cpu", whole=False).denoiser) is not None
    with pytest.raises(ModelError, match="is a model of the family zimage; give a diffusers folder of FLUX"):
        load(file, config="maker/another", device="cpu", whole=False)
