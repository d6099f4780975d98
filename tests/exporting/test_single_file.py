"""The whole model in one file of the original layout, and the merged folder, as other programs' loaders read them."""

from __future__ import annotations

import json

import pytest
import torch
from compvis import single_file_state
from conftest import SCHEDULE, UNET, VAE, _clip_config, _ready, tiny_pipe, tiny_sana, tiny_sdxl
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import CLIPTextModel, CLIPTokenizer

from excise import erase, export
from excise.edits.deltas import LowRank
from excise.edits.edit import Edit
from excise.errors import ModelError, WrongBaseError


def second_version(tokenizer) -> StableDiffusionPipeline:
    """A tiny Stable Diffusion 2: OpenCLIP's width of text, linear projections, v-prediction."""
    torch.manual_seed(0)
    config = _clip_config(tokenizer, 1024)
    config.intermediate_size, config.num_hidden_layers, config.hidden_act = 32, 1, "gelu"
    unet = UNet2DConditionModel(**UNET, cross_attention_dim=1024, use_linear_projection=True)
    schedule = DDIMScheduler(**SCHEDULE, prediction_type="v_prediction", clip_sample=False)
    parts = (AutoencoderKL(**VAE), CLIPTextModel(config), tokenizer, unet, schedule)
    return _ready(StableDiffusionPipeline(*parts, None, None, requires_safety_checker=False))


def picture(pipe) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.from_numpy(
        pipe("a cat", num_inference_steps=2, generator=generator, output_type="np", height=64, width=64).images
    )


@pytest.mark.parametrize("make", [tiny_pipe, second_version, tiny_sdxl])
def test_diffusers_reads_the_single_file_and_draws_the_same(make, tokenizer, tmp_path):
    pipe = make(tokenizer)
    pipe.save_pretrained(tmp_path / "base")
    edit = erase(pipe, ["cat"], "uce", preserve=["dog"], vocabulary=None)
    encoders = [n for n in pipe.components if n.startswith("text_encoder") and getattr(pipe, n, None) is not None]
    torch.manual_seed(0)
    for name in encoders:  # also inside what is fused there
        width = getattr(pipe, name).config.hidden_size
        modules = {
            f"{name}.encoder.layers.0.self_attn.{p}_proj": LowRank(torch.randn(width, 1) / 5, torch.randn(1, width) / 5)
            for p in "kv"
        }
        edit = Edit(edit.record, edit.text_maps, {**edit.modules, **modules})
    before = picture(pipe)
    done = export(edit, pipe, tmp_path / "out", "single-file")
    assert torch.equal(picture(pipe), before)
    assert done.error < 1e-4
    assert all(reading.whole for reading in done.readers.values())
    with edit.apply(pipe):
        wanted = picture(pipe)
    assert (wanted - before).abs().max() > 1e-3
    read = type(pipe).from_single_file(str(done.path), config=str(tmp_path / "base"), local_files_only=True)
    read.set_progress_bar_config(disable=True)
    assert torch.equal(picture(read), wanted)
    with safe_open(done.path, "pt") as file:
        about = file.metadata()
    assert json.loads(about["excise_record"])["concepts"][0]["name"] == "cat"
    assert about["modelspec.architecture"].startswith("stable-diffusion-")
    assert {p.name for p in (tmp_path / "out").iterdir()} == {done.path.name, "README.md"}


def test_names_are_those_of_the_original_program(pipe, tmp_path):
    edit = erase(pipe, ["cat"], "uce", preserve=["dog"], vocabulary=None)
    written = load_file(export(edit, pipe, tmp_path, "single-file").path)
    with edit.apply(pipe):
        wanted = single_file_state(pipe)
    assert written.keys() == wanted.keys()
    assert all(torch.equal(written[name], tensor) for name, tensor in wanted.items())


def test_sdxl_names_both_encoders_as_its_program_does(tokenizer, tmp_path):
    pipe = tiny_sdxl(tokenizer)
    edit = erase(pipe, ["cat"], "uce", preserve=["dog"], vocabulary=None)
    written = load_file(export(edit, pipe, tmp_path, "single-file").path)
    first, second = "conditioner.embedders.0.transformer.text_model.", "conditioner.embedders.1.model."
    block = f"{second}transformer.resblocks.0."
    attention = pipe.text_encoder_2.text_model.encoder.layers[0].self_attn
    fused = torch.cat([attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight])
    assert torch.equal(written[f"{block}attn.in_proj_weight"], fused)
    assert torch.equal(written[f"{second}text_projection"], pipe.text_encoder_2.text_projection.weight.mT)
    assert f"{first}encoder.layers.0.self_attn.q_proj.weight" in written
    assert {f"{second}positional_embedding", f"{block}ln_1.weight", f"{block}mlp.c_fc.bias"} <= written.keys()
    assert "v_pred" in written  # by which other programs know what it predicts


def test_stable_diffusion_2_gets_the_layer_that_strict_readers_ask_for():
    """diffusers keeps 23 of OpenCLIP's 24 layers, since nothing reads the last."""
    from excise.exporting.single_file import with_last_layer

    layers = {f"encoder.layers.{i}.mlp.fc1.weight": torch.full((2, 2), float(i)) for i in range(23)}
    whole = with_last_layer(layers)
    assert len(whole) == 24
    assert torch.equal(whole["encoder.layers.23.mlp.fc1.weight"], layers["encoder.layers.22.mlp.fc1.weight"])
    assert with_last_layer(whole) == whole


def test_no_single_file_of_sana(gemma_tokenizer, tmp_path):
    pipe = tiny_sana(gemma_tokenizer)
    edit = erase(pipe, ["cat"], "uce", preserve=["dog"], vocabulary=None)
    with pytest.raises(WrongBaseError, match="'sana' has no single-file layout"):
        export(edit, pipe, tmp_path / "out", "single-file")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("format", ["merged", "single-file"])
def test_a_pipeline_with_a_lora_of_its_own_is_no_whole_model(pipe, tmp_path, format):
    edit = erase(pipe, ["cat"], "uce", preserve=["dog"], vocabulary=None)
    lora = export(edit, pipe, tmp_path / "lora")
    pipe.load_lora_weights(str(lora.path.parent), weight_name=lora.path.name)
    with pytest.raises(ModelError, match="unload the LoRA"):
        export(edit, pipe, tmp_path / "out", format)
    assert not (tmp_path / "out").exists()
    pipe.unload_lora_weights()
    assert export(edit, pipe, tmp_path / "out", format).error < 1e-4


def test_no_half_a_file_is_left(pipe, tmp_path, monkeypatch):
    edit = erase(pipe, ["cat"], "uce", preserve=["dog"], vocabulary=None)

    def failing(state, path, metadata):
        path.write_bytes(b"half")
        raise RuntimeError("stopped")

    monkeypatch.setattr("safetensors.torch.save_file", failing)
    with pytest.raises(RuntimeError, match="stopped"):
        export(edit, pipe, tmp_path, "single-file")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("make", [tiny_pipe, tiny_sdxl])
def test_merged_folders_have_the_files_and_names_of_transformers_4(make, tokenizer, tmp_path):
    """Its CLIP has every weight below `text_model.` and its tokenizer reads two files; transformers 5 reads both."""
    pipe = make(tokenizer)
    edit = erase(pipe, ["cat"], "uce", preserve=["dog"], vocabulary=None)
    folder = export(edit, pipe, tmp_path, "merged").path
    for encoder in [p for p in folder.iterdir() if p.name.startswith("text_encoder")]:
        names = load_file(encoder / "model.safetensors")
        assert all(n.startswith("text_model.") or n == "text_projection.weight" for n in names)
        read, told = type(getattr(pipe, encoder.name)).from_pretrained(encoder, output_loading_info=True)
        assert not told["missing_keys"]
        assert not told["unexpected_keys"]
        for name, tensor in getattr(pipe, encoder.name).state_dict().items():
            assert torch.equal(read.state_dict()[name], tensor)
    for words in [p for p in folder.iterdir() if p.name.startswith("tokenizer")]:
        vocabulary = json.loads((words / "vocab.json").read_text())
        head, *merges = (words / "merges.txt").read_text().splitlines()
        assert head.startswith("#version")
        pairs = [tuple(line.split(" ")) for line in merges]
        again = CLIPTokenizer(vocab=vocabulary, merges=pairs, model_max_length=32)
        texts = ["a cat in neon style", "Guitarrists' 3 été!"]
        assert again(texts).input_ids == tokenizer(texts).input_ids


def test_no_stale_copy_of_fused_projections_is_shipped(pipe, tmp_path):
    edit = erase(pipe, ["cat"], "uce", preserve=["dog"], vocabulary=None)
    clean = {f: export(edit, pipe, tmp_path / f"clean-{f}", f).path for f in ("merged", "single-file")}
    pipe.fuse_qkv_projections()
    assert any("to_kv" in n for n, _ in pipe.unet.named_parameters())
    try:
        merged = export(edit, pipe, tmp_path / "merged", "merged").path
        single = export(edit, pipe, tmp_path / "single", "single-file").path
    except WrongBaseError:
        return  # where a fused pipeline is refused there is nothing to ship
    for part in ("unet", "vae"):
        file = f"{part}/diffusion_pytorch_model.safetensors"
        assert load_file(merged / file).keys() == load_file(clean["merged"] / file).keys()
    assert load_file(single).keys() == load_file(clean["single-file"]).keys()
