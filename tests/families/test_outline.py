"""An outline of a model tells what the loaded model tells, without the programs that run it."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from excise import erase, load
from excise.edits.originals import original_weights
from excise.errors import ModelError
from excise.exporting import export
from excise.families import outlined
from excise.families.networks import parameters
from excise.families.outline import is_outline


@pytest.fixture(params=["sd", "sdxl"])
def folder(request, make, tmp_path):
    make(request.param).save_pretrained(tmp_path / request.param)
    return tmp_path / request.param


def test_an_outline_has_the_layers_and_weights_of_the_model(folder):
    family, sketch = load(folder, device="cpu"), outlined(folder, device="cpu")
    assert is_outline(sketch)
    assert not is_outline(family)
    one, two = parameters(family.denoiser), parameters(sketch.denoiser)
    assert {n: w.shape for n, w in one.items()} == {n: w.shape for n, w in two.items()}
    one, two = ([p.path for p in f.projections("kvp")] for f in (family, sketch))
    assert one == two
    assert set(family.attention_maps()) == set(sketch.attention_maps())
    one, two = original_weights(family), original_weights(sketch)
    assert set(one) == set(two)
    assert all(torch.equal(one[path], two[path]) for path in one)
    for fact in ("text_width", "max_tokens", "image_size", "latent_shape", "prediction", "device"):
        assert getattr(family, fact) == getattr(sketch, fact)
    assert family.last_token("a red cat", "red") == sketch.last_token("a red cat", "red")
    assert type(family.pipe).__name__ == type(sketch.pipe).__name__
    assert type(family.pipe.scheduler).__name__ == type(sketch.pipe.scheduler).__name__


@pytest.mark.parametrize("format", ["kohya-lora", "diffusers-lora"])
def test_a_lora_needs_no_more_than_an_outline(folder, tmp_path, format):
    family = load(folder, device="cpu")
    edit = erase(family, ["cat"], "uce", preserve=["dog"], vocabulary=None)
    one = export(edit, family, tmp_path / "one", format)
    two = export(edit, outlined(folder, device="cpu"), tmp_path / "two", format)
    assert one.path.read_bytes() == two.path.read_bytes()
    assert one.readers == two.readers
    assert one.card.read_bytes() == two.card.read_bytes()


def test_an_outline_neither_draws_nor_encodes(folder):
    sketch = outlined(folder, device="cpu")
    with pytest.raises(ModelError, match="outlined from its files and cannot run; load it"):
        sketch.predict(torch.zeros(1, *sketch.latent_shape), torch.zeros(1), None)
    with pytest.raises(ModelError, match="outlined from its files and cannot run; load it"):
        sketch.encode(["a cat"])


def test_other_models_are_loaded(make, tmp_path):
    make("sana").save_pretrained(tmp_path / "sana")
    assert outlined(tmp_path / "sana") is None
    assert outlined("some/where") is None


def test_damaged_files_are_refused(folder):
    file = folder / "vae" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(ModelError, match="cut short"):
        outlined(folder)
    (folder / "unet" / "config.json").write_text("{")
    with pytest.raises(ModelError, match=r"config\.json cannot be read"):
        outlined(folder)


def test_doctor_closed_forms_and_the_export_of_a_lora_import_no_diffusers(folder, tmp_path, excise):
    edit = erase(load(folder, device="cpu"), ["cat"], "uce", preserve=["dog"], vocabulary=None, model_name=str(folder))
    edit.save(tmp_path / "edit.safetensors")
    code = (
        "import sys; sys.modules['diffusers'] = None; sys.modules['peft'] = None\n"
        "from excise.cli.main import run; sys.argv[1:] = {!r}; run()"
    )
    erasing = ["erase", "--model", str(folder), "--concept", "cat", "--method", "uce", "--no-preview", "--out", "run"]
    exporting = ["export", str(tmp_path / "edit.safetensors"), "--out", "out"]
    for words in (["doctor", "--model", str(folder)], erasing, exporting):
        done = subprocess.run([sys.executable, "-c", code.format(words)], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("format", ["merged", "single-file"])
def test_whole_models_are_written_of_loaded_ones(folder, tmp_path, excise, format):
    edit = erase(load(folder, device="cpu"), ["cat"], "uce", preserve=["dog"], vocabulary=None, model_name=str(folder))
    edit.save(tmp_path / "edit.safetensors")
    words = ["export", tmp_path / "edit.safetensors", "--out", tmp_path / "out"]
    status, _, err = excise(*words, "--format", "kohya-lora", "--format", format)
    assert status == 0, err
    assert list((tmp_path / "out").rglob("*.safetensors"))
