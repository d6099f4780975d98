"""Capabilities and roles: what a family says that it has is what its pipeline has, before and after loading."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from excise.errors import ModelError, UnknownNameError
from excise.families import BUILT_IN, FAMILIES, family_name_of, family_of
from excise.families.capabilities import CAPABILITIES
from excise.families.networks import walk
from excise.families.roles import ROLES


@pytest.fixture
def family(any_pipe):
    return family_of(any_pipe)


def paths(family, role: str) -> set[str]:
    return {m.path for m in family.maps(role)}


def test_a_family_provides_what_its_record_says(family):
    record = FAMILIES.record(family.name)
    assert family.provides == record.provides <= set(CAPABILITIES)
    assert f"{record.pipelines[0]}Pipeline" == type(family.pipe).__name__


def test_roles_of_attention_are_the_maps_of_its_layers(family):
    """As found by name in the tiny models: attn1 reads the picture, attn2 the text."""
    linears = {p for p, m in family.denoiser.named_modules() if isinstance(m, nn.Linear) and ".attn" in p}
    cross = {p for p in linears if ".attn2." in p}
    assert paths(family, "attention") == linears == {m.path for m in family.attention_maps()}
    assert paths(family, "cross") == cross
    assert paths(family, "self") == linears - cross
    assert paths(family, "cross_kv") == {p for p in cross if p.endswith(("to_k", "to_v"))}
    assert paths(family, "cross_kv") == {p.path for p in family.projections("kv")}


def test_roles_of_text_encoders_are_their_weights(family):
    linears, tables = set(), set()
    for name, encoder in family.text_encoders.items():
        for path, module in walk(encoder):
            whole = f"{name}.{path}".replace("text_model.", "")
            if isinstance(module, nn.Linear):
                linears.add(whole)
            elif isinstance(module, nn.Embedding) and "position" not in path:
                tables.add(whole)
    assert paths(family, "text_all") == linears
    assert paths(family, "embedding") == tables
    assert len(tables) == len(family.text_encoders)
    assert paths(family, "text_mlp") == {p for p in linears if ".mlp." in p}
    assert {layer.map for layer in family.encoder_layers()} <= paths(family, "text_mlp")
    assert all(m.block.startswith("text_encoder") for m in family.maps("text_all"))


def test_a_role_that_a_family_lacks_is_refused_by_name(family):
    with pytest.raises(ModelError, match="no weights of the role 'joint'; it has: cross_kv, cross, self, att"):
        family.maps("joint")
    with pytest.raises(UnknownNameError, match="no role 'cros_kv'. Did you mean 'cross_kv'"):
        family.maps("cros_kv")


def test_every_map_is_found_again_at_its_path(family):
    for role in set(ROLES) - {"joint", "door"}:
        for one in family.maps(role):
            module = family.module(one.path)
            assert isinstance(module, (nn.Linear, nn.Embedding))
            assert family.parameter(one.path) is family.parameter(f"{one.path}.weight") is module.weight
    with pytest.raises(AttributeError, match="no module at"):
        family.module("text_encoder.nowhere")


def test_a_path_of_an_encoder_that_is_not_loaded_is_refused(family):
    family.pipe.text_encoder = None
    with pytest.raises(ModelError, match="loaded without its 'text_encoder'"):
        family.module("text_encoder.encoder")
    with pytest.raises(ModelError, match="loaded without its 'text_encoder'"):
        family.maps("text_all")
    assert family.maps("attention")


def test_the_family_is_told_from_files_alone(any_pipe, tmp_path):
    any_pipe.save_pretrained(tmp_path / "model")
    assert family_name_of(tmp_path / "model") == family_of(any_pipe).name
    assert [f"canvas-{family_name_of(name)}" for name in BUILT_IN] == list(BUILT_IN)
    unet = {"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(1)}
    save_file({"cond_stage_model.x": torch.zeros(1), **unet}, tmp_path / "sd.safetensors")
    save_file({"conditioner.embedders.1.x": torch.zeros(1), **unet}, tmp_path / "sdxl.safetensors")
    assert family_name_of(tmp_path / "sd.safetensors") == "sd"
    assert family_name_of(tmp_path / "sdxl.safetensors") == "sdxl"
    (tmp_path / "broken.safetensors").write_bytes(b"not a model")
    for unclear in ("org/name", tmp_path, tmp_path / "broken.safetensors"):
        assert family_name_of(unclear) is None


def test_capabilities_and_families_are_known_without_torch():
    code = (
        "import sys; from excise.families import FAMILIES, family_name_of; import excise.families.capabilities;"
        "assert family_name_of('canvas-sdxl') == 'sdxl' and FAMILIES.record('sana').provides;"
        "assert not {'torch', 'diffusers', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
