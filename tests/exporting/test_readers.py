"""Which program reads which export: the names in a file held against each reader's rules."""

from __future__ import annotations

import json

import pytest
import torch
from conftest import tiny_pipe, tiny_sana, tiny_sdxl
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn
from torch.testing import assert_close

from excise import erase, export
from excise.edits.deltas import Dense, LowRank
from excise.edits.edit import Edit
from excise.edits.originals import original_weights
from excise.errors import UnknownNameError, WrongBaseError
from excise.exporting.readers import READERS, describe, readings
from excise.families import family_of


def taken(done) -> dict[str, int]:
    return {name: reading.taken for name, reading in done.readers.items()}


def edit_of(pipe, changes: dict) -> Edit:
    return Edit(erase(pipe, ["cat"], "uce", preserve=["dog"], vocabulary=None).record, modules=changes)


def metadata(path) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        return file.metadata()


@pytest.mark.parametrize("make", [tiny_pipe, tiny_sdxl])
def test_what_is_read_most_widely_is_the_default(make, tokenizer, tmp_path):
    pipe = make(tokenizer)
    edit = erase(pipe, ["cat"], "uce", preserve=["dog"], vocabulary=None)
    done = export(edit, pipe, tmp_path)
    lost = int("add_embedding.linear_1" in edit.paths)
    n = len(edit.paths)
    assert done.format == "kohya-lora"
    assert taken(done) == {
        "comfyui": n,
        "webui": n,
        "invokeai": n,
        "sd-cpp": n - lost,
        "sd-scripts": n - lost,
        "diffusers": n,
    }


def test_a_diffusers_lora_is_read_by_diffusers_alone(tokenizer, tmp_path):
    pipe = tiny_sdxl(tokenizer)
    edit = erase(pipe, ["cat"], "uce", preserve=["dog"], vocabulary=None)
    done = export(edit, pipe, tmp_path, "diffusers-lora")
    n = len(edit.paths)
    assert taken(done) == {"comfyui": 1, "webui": 0, "invokeai": 0, "sd-cpp": n - 1, "sd-scripts": 0, "diffusers": n}
    lines = describe(done.readers)
    assert lines[0] == "All of it is read by diffusers."
    assert f"A part is read by ComfyUI: 1 of {n} maps, not unet." in lines[1]
    assert lines[-1].startswith("None of it is read by the web UIs")
    first = tiny_pipe(tokenizer)
    edit = erase(first, ["cat"], "uce", preserve=["dog"], vocabulary=None)
    n = len(edit.paths)
    counts = taken(export(edit, first, tmp_path / "first", "diffusers-lora"))
    assert counts == {"comfyui": 0, "webui": 0, "invokeai": 0, "sd-cpp": n, "sd-scripts": 0, "diffusers": n}


def test_the_program_picks_what_it_reads_whole(tokenizer, gemma_tokenizer, tmp_path):
    pipe = tiny_sdxl(tokenizer)
    edit = erase(pipe, ["cat"], "uce", preserve=["dog"], vocabulary=None)
    chosen = {name: export(edit, pipe, tmp_path / name, for_=name) for name in READERS}
    assert {name: done.format for name, done in chosen.items()} == {
        "comfyui": "kohya-lora",
        "webui": "kohya-lora",
        "invokeai": "kohya-lora",
        "sd-cpp": "single-file",  # it knows the pooled map by no name
        "sd-scripts": "single-file",
        "diffusers": "diffusers-lora",
    }
    assert all(done.readers[name].whole for name, done in chosen.items())
    with pytest.raises(UnknownNameError, match="no program 'comfy'. Did you mean 'comfyui'"):
        export(edit, pipe, tmp_path, for_="comfy")
    sana = tiny_sana(gemma_tokenizer)
    edit = erase(sana, ["cat"], "uce", preserve=["dog"], vocabulary=None)
    with pytest.raises(WrongBaseError, match="ComfyUI 0.3.64 reads no edit of the family 'sana'; use --for diffusers"):
        export(edit, sana, tmp_path, for_="comfyui")
    assert export(edit, sana, tmp_path / "sana").format == "diffusers-lora"


def test_names_that_programs_pass_over():
    """Facts of the readers' sources: mixed or foreign names do not arrive."""
    names = ["lora_unet_add_embedding_linear_1", "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k"]
    found = readings("kohya-lora", "sdxl", names)
    assert found["webui"].missed == found["sd-cpp"].missed == (names[0],)
    assert readings("kohya-lora", "sd", ["lora_te_text_model_encoder_layers_0_mlp_fc2"])["invokeai"].taken == 0
    text = ["text_encoder.text_model.encoder.layers.0.mlp.fc2"]
    assert {n for n, r in readings("diffusers-lora", "sd", text).items() if r.taken} == {"comfyui", "diffusers"}


@pytest.mark.parametrize("make", [tiny_pipe, tiny_sdxl])
def test_every_linear_map_and_convolution_has_a_place(make, tokenizer, tmp_path):
    """What `esd variant=u` trains, and convolutions as other tools change them."""
    pipe = make(tokenizer)
    torch.manual_seed(0)
    changes = {
        path: Dense(torch.randn(len(m.weight), 1).mul(0.1) @ torch.randn(1, m.weight[0].numel()).mul(0.1))
        for path, m in pipe.unet.named_modules()
        if isinstance(m, nn.Linear | nn.Conv2d)
    }
    changes = {p: Dense(d.dw.view(pipe.unet.get_submodule(p).weight.shape)) for p, d in changes.items()}
    edit = edit_of(pipe, changes)
    for format in ("kohya-lora", "diffusers-lora"):
        done = export(edit, pipe, tmp_path / format, format)
        assert (done.rank, done.error < 1e-5) == (1, True)
        pipe.load_lora_weights(str(done.path.parent), weight_name=done.path.name)
        for path, change in changes.items():
            layer = pipe.unet.get_submodule(path)
            assert_close(layer.get_delta_weight(layer.active_adapters[0]), change.dw, rtol=1e-4, atol=1e-6, msg=path)
        pipe.unload_lora_weights()


def test_what_truly_has_no_place_is_refused(pipe, tmp_path):
    for path, shape in (("conv_in.bias", (16,)), ("text_encoder.embeddings.token_embedding", None)):
        change = torch.ones(shape or pipe.text_encoder.embeddings.token_embedding.weight.shape)
        edit = edit_of(pipe, {path: Dense(change)})
        for format in ("kohya-lora", "diffusers-lora"):
            with pytest.raises(
                WrongBaseError, match=f"alone, this edit also '{path}'; use --format merged or single-f"
            ):
                export(edit, pipe, tmp_path / "none", format)
        assert not (tmp_path / "none").exists()
        assert export(edit, pipe, tmp_path / path, for_="comfyui").format == "single-file"


@pytest.mark.parametrize("format", ["kohya-lora", "diffusers-lora"])
def test_ranks_may_differ_and_the_products_arrive(pipe, tmp_path, format):
    """In the attention of the denoiser and of the text encoder, where diffusers mixes up alphas that differ."""
    torch.manual_seed(0)
    attn = "mid_block.attentions.0.transformer_blocks.0.attn2"
    layer = "text_encoder.encoder.layers.{}.self_attn.{}_proj"
    paths = [f"{attn}.to_k", f"{attn}.to_v", f"{attn}.to_q", *(layer.format(i, p) for i in (0, 1) for p in "qv")]
    weights = original_weights(family_of(pipe), paths)
    changes = {
        p: LowRank(torch.randn(len(weights[p]), r) / 9, torch.randn(r, weights[p].shape[1]) / 9)
        for r, p in enumerate(paths, 1)
    }
    edit = edit_of(pipe, changes)
    path = export(edit, pipe, tmp_path, format).path
    if format == "kohya-lora":
        state = load_file(path)
        ranks = sorted(len(t) for n, t in state.items() if n.endswith("lora_down.weight") and t.any())
        assert ranks == [1, 2, 3, 4, 5, 6, 7]
        assert {float(t) for n, t in state.items() if n.endswith(".alpha")} == {7.0}
        assert metadata(path)["ss_network_dim"] == "Dynamic"
    pipe.load_lora_weights(str(tmp_path), weight_name=path.name)
    for p, change in changes.items():
        part, _, rest = p.partition(".")
        module = (pipe.text_encoder if part == "text_encoder" else pipe.unet).get_submodule(
            rest if part == "text_encoder" else p
        )
        assert_close(module.get_delta_weight(module.active_adapters[0]), change.b @ change.a, rtol=1e-4, atol=1e-6)


def test_an_edit_of_the_text_encoder_alone_names_a_map_by_which_its_base_is_known(pipe, tmp_path):
    changes = {"text_encoder.encoder.layers.0.mlp.fc2": LowRank(torch.ones(32, 1), torch.ones(1, 32))}
    done = export(edit_of(pipe, changes), pipe, tmp_path, "kohya-lora")
    state = load_file(done.path)
    (mark,) = [n for n in state if "attn2_to_k" in n and n.endswith("lora_down.weight")]
    assert state[mark].shape[1] == 32  # the width of the text, which is what a reader looks at
    assert not state[mark].any()
    assert not state[mark.replace("lora_down", "lora_up")].any()
    assert all(reading.taken == reading.maps == 1 for reading in done.readers.values())


def test_a_lora_of_stable_diffusion_2_says_so(tokenizer, tmp_path):
    from test_single_file import second_version

    pipe = second_version(tokenizer)
    edit = erase(pipe, ["cat"], "uce", preserve=["dog"], vocabulary=None)
    about = metadata(export(edit, pipe, tmp_path, "kohya-lora").path)
    assert (about["ss_v2"], about["ss_base_model_version"]) == ("True", "sd_v2")
    pipe = tiny_pipe(tokenizer)
    edit = erase(pipe, ["cat"], "uce", preserve=["dog"], vocabulary=None)
    assert "ss_v2" not in metadata(export(edit, pipe, tmp_path / "first", "kohya-lora").path)


def test_the_command_says_who_reads_it(excise, model, tmp_path):
    out = tmp_path / "run"
    status, _, err = excise("erase", "--model", model, "--concept", "cat", "--method", "uce", "--out", out)
    assert status == 0, err
    edit = out / "edit.safetensors"
    status, _, said = excise("export", edit, "--for", "comfyui", "--out", tmp_path / "a")
    assert status == 0
    assert "All of it is read by ComfyUI, the web UIs" in " ".join(said.split())
    status, _, said = excise("export", edit, "--for", "webui", "--format", "diffusers-lora", "--out", tmp_path / "b")
    assert "Without --format diffusers-lora, a format is chosen that" in " ".join(said.split())
    status, said, _ = excise("export", edit, "--for", "webui", "--out", tmp_path / "c", "--json")
    assert json.loads(said)["readers"]["webui"]["missed"] == []
    status, _, err = excise("export", edit, "--for", "photoshop", "--out", tmp_path / "d")
    assert status == 2
    assert "no program 'photoshop'" in err
