"""A model that is loaded for its text alone: the same edits to the byte, most of its weights never read."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from excise import erase
from excise.errors import ModelError
from excise.exporting import export, whole_model
from excise.families.load import load
from excise.methods import METHODS

CLOSED = [name for name, record in METHODS.records().items() if record.shape == "closed-form"]


@pytest.fixture
def folder(any_pipe, tmp_path):
    any_pipe.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def denoiser_files(folder):
    return next(folder / name for name in ("unet", "transformer") if (folder / name).exists())


@pytest.mark.parametrize("method", CLOSED)
def test_edits_are_the_same_to_the_byte(folder, tmp_path, method):
    families = {whole: load(folder, whole=whole) for whole in (True, False)}
    if not METHODS.record(method).needs <= families[True].provides:
        pytest.skip("not for this family")
    settings = {"threshold": 5.0} if method == "speed" else {}
    files = [
        erase(family, ["cat"], method, preserve=["dog"], vocabulary=None, model_name="model", **settings).save(
            tmp_path / f"{whole}.safetensors"
        )
        for whole, family in families.items()
    ]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_only_what_text_passes_is_read(folder):
    family = load(folder, whole=False)
    assert family.partial
    read = {name.rpartition(".")[0] for name, p in family.denoiser.named_parameters() if not p.is_meta}
    assert read >= {p.path for p in family.projections("kvp")}
    assert all(path.endswith(family.text_reading) for path in read)
    assert all(p.is_meta for p in family.pipe.vae.parameters())
    assert family.device == torch.device("cpu")
    with pytest.raises(ModelError, match="loaded for its text alone"):
        family.sample(["a cat"], [0], steps=1, guidance=1.0, batch=1)


def test_further_modules_are_read_where_an_edit_below_changes_them(folder):
    whole = load(folder)
    path = next(m.path for m in whole.attention_maps() if m.source == "self")
    family = load(folder, whole=False, paths=[path, "text_encoder.no_part_of_the_denoiser"])
    assert torch.equal(family.module(path).weight, whole.module(path).weight)


def test_shards_and_variants_are_read_by_their_index(any_pipe, tmp_path):
    wanted = erase(any_pipe, ["cat"], "uce", vocabulary=None, preserve=["dog"], model_name="m").tensors()
    any_pipe.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    assert list(denoiser_files(tmp_path / "shards").glob("*.index.json"))
    sharded = erase(
        load(tmp_path / "shards", whole=False), ["cat"], "uce", vocabulary=None, preserve=["dog"], model_name="m"
    ).tensors()
    assert all(torch.equal(t, wanted[name]) for name, t in sharded.items())
    any_pipe.to(torch.float16).save_pretrained(tmp_path / "half", variant="fp16")
    family = load(tmp_path / "half", variant="fp16", whole=False)
    assert family.projections()[0].module.weight.dtype == torch.float32


def test_files_that_do_not_hold_what_is_read_are_told(any_pipe, tmp_path):
    any_pipe.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    part = denoiser_files(tmp_path / "shards")
    index = next(part.glob("*.index.json"))
    content = json.loads(index.read_text())
    path = next(name for name in content["weight_map"] if name.endswith("attn2.to_k.weight"))
    shard = part / content["weight_map"][path]
    kept = shard.read_bytes()
    shard.unlink()
    with pytest.raises(ModelError, match="which is not beside it; copy the folder again"):
        load(tmp_path / "shards", whole=False)
    shard.write_bytes(kept[: len(kept) // 2])
    with pytest.raises(ModelError, match="cannot be read"):
        load(tmp_path / "shards", whole=False)
    other = next(f for f in set(content["weight_map"].values()) if f != shard.name)
    shutil.copy(part / other, shard)
    with pytest.raises(ModelError, match="does not hold"):
        load(tmp_path / "shards", whole=False)
    shard.write_bytes(kept)
    index.write_text(json.dumps({"weight_map": {n: f for n, f in content["weight_map"].items() if n != path}}))
    with pytest.raises(ModelError, match=f"no file of the model holds the tensor '{path}'"):
        load(tmp_path / "shards", whole=False)
    index.write_text("{")
    with pytest.raises(ModelError, match="cannot be read as an index of shards"):
        load(tmp_path / "shards", whole=False)


def test_weights_of_another_shape_than_the_configuration_says(folder):
    config = denoiser_files(folder) / "config.json"
    content = json.loads(config.read_text())
    content["cross_attention_dim"] = 2 * content["cross_attention_dim"]
    config.write_text(json.dumps(content))
    with pytest.raises(ModelError, match="by the configuration; copy the folder again"):
        load(folder, whole=False)


def test_a_lora_needs_no_more_than_its_own_maps(folder, tmp_path):
    family = load(folder, whole=False)
    edit = erase(family, ["cat"], "uce", vocabulary=None, preserve=["dog"])
    part = load(folder, whole=False, paths=edit.paths)
    assert not whole_model(edit, part, "diffusers-lora", None)
    assert whole_model(edit, part, "merged", None)
    one = export(edit, part, tmp_path / "one", "diffusers-lora").path
    two = export(edit, load(folder), tmp_path / "two", "diffusers-lora").path
    assert one.read_bytes() == two.read_bytes()
