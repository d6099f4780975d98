"""An edit on networks with a LoRA around their layers, compiled or fused, and on shared ones: in force, or refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from diffusers.models.attention_processor import CustomDiffusionAttnProcessor2_0
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from situations import FAMILIES, add_lora, encoder_edit, image, same, state, uce

from excise import Edit, erase
from excise.edits.bases import base_of
from excise.edits.deltas import Dense
from excise.edits.edit import applied_edits
from excise.edits.originals import original_weights
from excise.edits.record import EditRecord
from excise.errors import ModelError, WrongBaseError
from excise.exporting import export
from excise.families import family_of
from excise.families.networks import walk
from excise.methods.base import Context


@pytest.mark.parametrize("name", FAMILIES)
def test_below_a_lora_the_layer_itself_is_edited(make, name):
    plain, pipe = make(name), make(name)
    edit = uce(plain)
    add_lora(family_of(pipe).denoiser)
    assert uce(pipe).paths == edit.paths
    before, picture = state(pipe), image(pipe)
    with edit.apply(pipe), edit.apply(plain):
        ours, theirs = original_weights(family_of(pipe)), original_weights(family_of(plain))
        assert all(torch.equal(ours[p], theirs[p]) for p in ours)
        assert all(torch.equal(w, state(plain)[n]) for n, w in state(pipe).items())
        assert (image(pipe) != picture).any()
    assert same(state(pipe), before)
    assert (image(pipe) == picture).all()


@pytest.mark.parametrize("name", ["sd", "sdxl"])
def test_a_lora_of_the_text_encoder_too(make, name):
    pipe = make(name)
    edit = encoder_edit(pipe)
    add_lora(pipe.text_encoder, ["q_proj", "fc2"])
    add_lora(pipe.unet)
    before, picture = state(pipe), image(pipe)
    with edit.apply(pipe):
        changed = [n for n, w in state(pipe).items() if w is not before[n]]
        assert len(changed) == len(edit.paths) == 2
        assert (image(pipe) != picture).any()
    assert same(state(pipe), before)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_lora_may_come_and_go_while_an_edit_is_in_force(make, name):
    pipe = make(name)
    before, picture = state(pipe), image(pipe)
    denoiser = family_of(pipe).denoiser
    applied = uce(pipe).apply(pipe)
    erased = image(pipe)
    add_lora(denoiser)
    assert (image(pipe) != erased).any()
    applied.remove()
    denoiser.unload_lora()
    assert same(state(pipe), before)
    add_lora(denoiser)
    applied = uce(pipe).apply(pipe)
    denoiser.unload_lora()
    assert (image(pipe) == erased).all()
    applied.remove()
    assert same(state(pipe), before)
    assert (image(pipe) == picture).all()


def test_a_whole_network_in_a_peft_model(make):
    pipe, edit = make(), uce(make())
    unet, before = pipe.unet, state(pipe)
    pipe.unet = get_peft_model(unet, LoraConfig(r=2, target_modules=["to_k"], init_lora_weights=False))
    with edit.apply(pipe):
        assert sum(w is not before[n] for n, w in state(pipe).items()) == len(edit.paths)
    assert same(state(pipe), before)


def test_a_lora_fused_into_an_edited_weight_is_not_lost_by_removing_the_edit(make):
    pipe = make()
    before, edit = state(pipe), uce(pipe)
    applied = edit.apply(pipe)
    add_lora(pipe.unet)
    pipe.unet.fuse_lora()
    now = {n: w.clone() for n, w in state(pipe).items()}
    with pytest.raises(ModelError, match="was written to while an edit was in force .*pipe.unfuse_lora"):
        applied.remove()
    assert all(torch.equal(w, now[n]) for n, w in state(pipe).items())
    assert [e for e, _ in applied_edits(family_of(pipe))] == [edit]
    pipe.unet.unfuse_lora()
    applied.remove()
    assert all(state(pipe)[n] is w for n, w in before.items() if n.endswith(("attn2.to_k.weight", "attn2.to_v.weight")))


def test_a_weak_lora_fused_in_half_precision_is_not_lost_by_removing_the_edit(make):
    pipe = make()
    edit = uce(pipe)
    pipe.to(torch.float16)
    before = state(pipe)
    applied = edit.apply(pipe)
    edited = {n: w.clone() for n, w in state(pipe).items()}
    add_lora(pipe.unet)
    with torch.no_grad():
        for name, w in pipe.unet.named_parameters():
            if "lora_B" in name:
                w.mul_(3e-4)  # of the size of half precision's rounding
    pipe.unet.fuse_lora()
    assert not all(torch.equal(w, edited[n]) for n, w in state(pipe).items())
    with pytest.raises(ModelError, match="was written to while an edit was in force"):
        applied.remove()
    pipe.unet.unfuse_lora()
    applied.remove()
    assert all(state(pipe)[f"0.{p}.weight"] is before[f"0.{p}.weight"] for p in edit.paths)


def test_a_model_with_a_lora_fused_into_it_is_told_from_its_base(make):
    pipe, edit = make(), uce(make())
    add_lora(pipe.unet)
    pipe.unet.fuse_lora()
    with pytest.raises(WrongBaseError, match="A LoRA is fused into it: call pipe.unfuse_lora"):
        edit.apply(pipe)
    before = state(pipe)
    with edit.apply(pipe, allow_other_base=True):
        assert not same(state(pipe), before)
    assert same(state(pipe), before)


def test_text_states_of_an_encoder_with_a_lora_are_not_kept_as_its_own(make, tmp_path):
    pipe = make()
    asked = {"method": "uce", "preserve": ["dog"], "vocabulary": None, "context": Context(states=tmp_path)}
    plain = erase(pipe, ["cat"], **asked)
    kept = sorted(tmp_path.rglob("*.safetensors"))
    add_lora(pipe.text_encoder, ["q_proj"])
    other = erase(pipe, ["cat"], **asked)
    assert sorted(tmp_path.rglob("*.safetensors")) == kept
    pipe.text_encoder.delete_adapter("default")
    assert not torch.equal(other.text_maps[0].u, plain.text_maps[0].u)


def test_what_works_on_layers_themselves_refuses_a_lora(make, tmp_path):
    pipe, edit = make(), uce(make())
    add_lora(pipe.unet)
    before = state(pipe)
    with pytest.raises(ModelError, match="training takes the layers as they are, but a LoRA .* unload the LoRA"):
        erase(pipe, ["cat"], method="esd", vocabulary=None)
    with pytest.raises(ModelError, match="a folder holds the layers as they are, but a LoRA .* unload the LoRA"):
        export(edit, pipe, tmp_path, "merged")
    assert same(state(pipe), before)
    assert not list(tmp_path.iterdir())
    exported = export(edit, pipe, tmp_path, "diffusers-lora")
    assert exported.error < 1e-4


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("way", ["around", "inside", "a block"])
def test_compiled_networks_have_the_paths_and_weights_of_their_own(make, name, way):
    pipe, edit = make(name), uce(make(name))
    family = family_of(pipe)
    before, picture = state(pipe), image(pipe)
    part = family.denoiser_name
    if way == "around":
        setattr(pipe, part, torch.compile(family.denoiser, backend="eager"))
    elif way == "inside":
        family.denoiser.compile(backend="eager")
    else:
        blocks = family.denoiser.transformer_blocks if name == "sana" else family.denoiser.up_blocks
        blocks[0] = torch.compile(blocks[0], backend="eager")
    made = uce(pipe)
    assert made.paths == edit.paths
    assert made.record.base == edit.record.base
    assert np.abs(image(pipe) - picture).max() <= 1
    with edit.apply(pipe):
        erased = image(pipe)
        assert np.abs(erased - picture).max() > 1
    assert same(state(pipe), before)
    assert np.abs(image(pipe) - picture).max() <= 1


def test_a_compiled_text_encoder_has_the_paths_and_print_of_its_own(make):
    pipe, edit = make(), encoder_edit(make())
    before = state(pipe)
    pipe.text_encoder = torch.compile(pipe.text_encoder, backend="eager")
    assert encoder_edit(pipe).record.base == edit.record.base
    with edit.apply(pipe):
        assert sum(w is not before[n] for n, w in state(pipe).items()) == len(edit.paths)
    assert same(state(pipe), before)


def test_a_network_compiled_while_an_edit_is_in_force_is_still_the_one_that_has_it(make):
    pipe = make()
    before, edit = state(pipe), uce(pipe)
    applied = edit.apply(pipe)
    pipe.unet = torch.compile(pipe.unet, backend="eager")
    assert applied_edits(family_of(pipe)) == [(edit, 1.0)]
    applied.remove()
    assert same(state(pipe), before)


@pytest.mark.parametrize("name", ["sd", "sdxl"])
def test_fused_projections_follow_the_maps_they_are_copies_of(make, name):
    plain, pipe = make(name), make(name)
    edit, picture = uce(plain), image(plain)
    with edit.apply(plain):
        erased = image(plain)
    pipe.fuse_qkv_projections()
    assert np.abs(image(pipe) - picture).max() <= 1
    with edit.apply(pipe):
        assert np.abs(image(pipe) - erased).max() <= 1
    assert np.abs(image(pipe) - picture).max() <= 1
    pipe = make(name)
    applied = edit.apply(pipe)
    pipe.fuse_qkv_projections()
    assert np.abs(image(pipe) - erased).max() <= 1
    applied.remove()
    assert np.abs(image(pipe) - picture).max() <= 1
    with edit.apply(pipe):
        pipe.unfuse_qkv_projections()
        assert np.abs(image(pipe) - erased).max() <= 1


def test_a_fused_query_of_self_attention_follows_too(make):
    pipe, other = make(), make()
    module = dict(walk(pipe.unet))["down_blocks.1.attentions.0.transformer_blocks.0.attn1"]
    twin = dict(walk(other.unet))["down_blocks.1.attentions.0.transformer_blocks.0.attn1"]
    path = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_out.0.bias"
    record = EditRecord(excise="0", base=base_of(family_of(pipe), "tiny"), method="test", concepts=())
    query = path.replace("to_out.0.bias", "to_q")
    edit = Edit(record, (), {path: Dense(torch.ones(48)), query: Dense(torch.ones(48, 48))})
    pipe.fuse_qkv_projections()
    with edit.apply(pipe), edit.apply(other):
        other.fuse_qkv_projections()
        assert torch.equal(module.to_qkv.weight, twin.to_qkv.weight)
        assert (image(pipe) == image(other)).all()


def test_a_fused_copy_that_is_none_any_more_is_refused_where_it_is_read(make):
    pipe, edit = make(), uce(make())
    pipe.fuse_qkv_projections()
    layer = dict(walk(pipe.unet))["down_blocks.1.attentions.0.transformer_blocks.0.attn2"]
    with torch.no_grad():
        layer.to_kv.weight.add_(1.0)
    before = state(pipe)
    with pytest.raises(ModelError, match="'to_kv' .* is no copy of to_k, to_v any more; call unfuse"):
        edit.apply(pipe)
    with pytest.raises(ModelError, match="is no copy"):
        uce(pipe)
    assert same(state(pipe), before)
    pipe.unfuse_qkv_projections()
    with edit.apply(pipe):
        pass


def test_processors_with_keys_and_values_of_their_own_are_refused(make):
    pipe, edit = make(), uce(make())
    processors = dict(pipe.unet.attn_processors)
    name = next(n for n in processors if "attn2" in n)
    processors[name] = CustomDiffusionAttnProcessor2_0(hidden_size=48, cross_attention_dim=32)
    pipe.unet.set_attn_processor(processors)
    for refused in (edit.apply, uce):
        with pytest.raises(ModelError, match="reads keys and values of its CustomDiffusionAttnProcessor2_0 instead"):
            refused(pipe)
    assert applied_edits(family_of(pipe)) == []


def test_trained_methods_refuse_what_is_read_fused(make):
    pipe = make()
    pipe.fuse_qkv_projections()
    with pytest.raises(ModelError, match="reads fused projections; call pipe.unfuse_qkv_projections"):
        erase(pipe, ["cat"], method="esd", vocabulary=None)


def test_a_merged_folder_of_a_fused_model_holds_no_fused_copy(make, tmp_path):
    pipe, edit = make(), uce(make())
    pipe.fuse_qkv_projections()
    export(edit, pipe, tmp_path, "merged")
    for part in ("unet", "vae"):
        names = set(load_file(tmp_path / part / "diffusion_pytorch_model.safetensors"))
        assert names == set(getattr(make(), part).state_dict())
    loaded = StableDiffusionPipeline.from_pretrained(tmp_path)
    with edit.apply(pipe):
        assert np.abs(image(loaded) - image(pipe)).max() <= 1


def test_pipelines_that_share_a_network_share_what_is_in_force_on_it(make):
    one, two = make(), make()
    other = StableDiffusionPipeline(**{**two.components, "unet": one.unet}, requires_safety_checker=False)
    edit = encoder_edit(one)
    before = image(other)
    with edit.apply(one):
        assert applied_edits(family_of(other)) == [(edit, 1.0)]
        with edit.apply(other):
            assert [e for e, _ in applied_edits(family_of(other))] == [edit, edit]
            # Of the text encoder that only the second has, the second's own is changed.
            assert (
                original_weights(family_of(other))[edit.paths[0]] == original_weights(family_of(one))[edit.paths[0]]
            ).all()
        assert (image(other) != before).any()
    assert (image(other) == before).all()
