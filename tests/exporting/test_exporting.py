"""Exports as stock diffusers reads them: same weights, same images, and both alpha traps closed."""

from __future__ import annotations

import json

import pytest
import torch
from conftest import tiny_pipe, tiny_sana
from diffusers import SanaPipeline, StableDiffusionPipeline
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from excise import erase, export, stack
from excise.edits.deltas import Dense
from excise.edits.edit import Edit
from excise.errors import UnknownNameError, WrongBaseError
from excise.families.load import as_family


def image(pipe) -> torch.Tensor:
    g = torch.Generator().manual_seed(0)
    return torch.from_numpy(pipe("a cat", num_inference_steps=3, generator=g, output_type="np").images)


@pytest.fixture(params=["uce", "speed", "both", "dense"])
def edit(request, pipe) -> Edit:
    def make(method: str, **knobs):
        return erase(pipe, ["cat"], method=method, preserve=["dog", "tree"], **knobs)

    if request.param == "uce":
        return make("uce")
    speed = make("speed", threshold=5.0)
    if request.param == "speed":
        return speed
    if request.param == "both":
        return stack([make("uce", params="v"), speed])
    torch.manual_seed(0)
    return Edit(speed.record, modules={p: Dense(0.3 * torch.randn(48, 32)) for p in speed.paths})


@pytest.mark.parametrize("format", ["diffusers-lora", "kohya-lora"])
def test_stock_diffusers_loads_the_lora_and_draws_the_same(edit, pipe, tokenizer, tmp_path, format):
    base = image(pipe)
    done = export(edit, pipe, tmp_path, format)
    assert done.error < 1e-5
    with edit.apply(pipe):
        wanted = image(pipe)
    stock = tiny_pipe(tokenizer)
    stock.load_lora_weights(str(done.path.parent), weight_name=done.path.name)
    effect, miss = (wanted - base).abs().max(), (image(stock) - wanted).abs().max()
    assert effect > 1e-3
    assert miss < 1e-4 * max(1, float(effect))
    stock.unload_lora_weights()
    assert torch.equal(image(stock), base)


@pytest.mark.parametrize("method", ["uce", "speed"])
def test_the_lora_of_every_family_draws_the_same_in_its_stock_pipeline(any_pipe, tmp_path, method):
    family = as_family(any_pipe)
    settings = {"threshold": 5.0} if method == "speed" else {}
    made = erase(any_pipe, ["cat"], method=method, preserve=["dog"], **settings)

    latents, t = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([500])

    def predict() -> torch.Tensor:
        return family.predict(latents, t, family.condition(["a cat"]))

    base = predict()
    with made.apply(any_pipe):
        wanted = predict()
    done = export(made, any_pipe, tmp_path)
    any_pipe.load_lora_weights(str(done.path.parent), weight_name=done.path.name)
    effect, miss = (wanted - base).abs().max(), (predict() - wanted).abs().max()
    assert effect > 1e-4
    assert miss < 1e-3 * effect
    any_pipe.unload_lora_weights()
    assert torch.equal(predict(), base)


def test_no_kohya_lora_of_sana(gemma_tokenizer, tmp_path):
    pipe = tiny_sana(gemma_tokenizer)
    made = erase(pipe, ["cat"], method="uce", preserve=["dog"])
    with pytest.raises(WrongBaseError, match="no tool reads a kohya LoRA for the family 'sana'"):
        export(made, pipe, tmp_path, "kohya-lora")
    merged = export(made, pipe, tmp_path / "merged", "merged")
    assert merged.error < 1e-5
    assert as_family(SanaPipeline.from_pretrained(merged.path)).name == "sana"


def test_alpha_is_the_rank_in_both_dialects(edit, pipe, tmp_path):
    kohya = load_file(export(edit, pipe, tmp_path / "k", "kohya-lora").path)
    for key, alpha in kohya.items():
        if key.endswith(".alpha"):
            assert float(alpha) == len(kohya[key.replace(".alpha", ".lora_down.weight")])
    with safe_open(export(edit, pipe, tmp_path / "d", "diffusers-lora").path, "pt") as file:
        adapter = json.loads(file.metadata()["lora_adapter_metadata"])
        record = json.loads(file.metadata()["excise_record"])
    assert adapter["unet.lora_alpha"] == adapter["unet.r"]
    assert record["concepts"][0]["name"] == "cat"


def test_a_wrong_alpha_would_be_noticed(pipe, tokenizer, tmp_path):
    """The control: halve every alpha and the images differ, so the test above can fail."""
    edit = erase(pipe, ["cat"], method="uce", preserve=["dog"])
    path = export(edit, pipe, tmp_path, "kohya-lora").path
    state = {k: v / 2 if k.endswith(".alpha") else v for k, v in load_file(path).items()}
    save_file(state, tmp_path / "half.safetensors")
    with edit.apply(pipe):
        wanted = image(pipe)
    stock = tiny_pipe(tokenizer)
    stock.load_lora_weights(str(tmp_path), weight_name="half.safetensors")
    assert (image(stock) - wanted).abs().max() > 1e-3


def test_merged_folder_is_a_pipeline_with_the_edit_inside(edit, pipe, tmp_path):
    before = image(pipe)
    done = export(edit, pipe, tmp_path / "merged", "merged")
    assert done.error < 1e-4
    assert torch.equal(image(pipe), before)  # the caller's pipeline is as it was
    merged = StableDiffusionPipeline.from_pretrained(done.path, safety_checker=None)
    merged.set_progress_bar_config(disable=True)
    with edit.apply(pipe):
        wanted = image(pipe)
    assert torch.equal(image(merged), wanted)
    assert not [p for p in done.path.iterdir() if p.name.startswith(".partial")]


def test_refusals(edit, pipe, tokenizer, tmp_path):
    with pytest.raises(UnknownNameError, match="Did you mean 'kohya-lora'"):
        export(edit, pipe, tmp_path, "kohya")
    with pytest.raises(WrongBaseError):
        export(edit, tiny_pipe(tokenizer, seed=5), tmp_path)
