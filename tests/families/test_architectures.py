"""What a model is, told by its files before anything large is imported, and said in one sentence."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import save_file

from excise import load
from excise.errors import ModelError
from excise.families import check_model

FILES = {
    "FLUX": ["model.diffusion_model.double_blocks.0.img_attn.qkv.weight", "model.diffusion_model.img_in.weight"],
    "Z-Image": ["cap_pad_token", "x_pad_token", "cap_embedder.0.weight", "noise_refiner.0.attention.qkv.weight"],
    "FLUX.2": ["double_stream_modulation_img.lin.weight", "double_blocks.0.img_attn.qkv.weight"],
    "Krea 2": ["txtfusion.projector.weight", "blocks.0.attn.wq.weight"],
    "Lumina-Image 2.0": ["cap_embedder.0.weight", "noise_refiner.0.attention.qkv.weight"],
    "Lumina-Next": ["cap_embedder.0.weight", "layers.0.attention.wq.weight"],
    "SANA": ["blocks.0.mlp.depth_conv.conv.weight"],
    "Chroma": ["distilled_guidance_layer.in_proj.weight", "double_blocks.0.img_attn.qkv.weight"],
    "PixArt": ["t_block.1.weight", "blocks.0.cross_attn.kv_linear.weight"],
    "PixArt-Alpha": ["t_block.1.weight", "blocks.0.cross_attn.kv_linear.weight", "csize_embedder.mlp.0.weight"],
    "Stable Diffusion 3": ["model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight", "first_stage_model.x"],
    "Qwen-Image": ["transformer_blocks.0.img_mlp.net.0.proj.weight", "transformer_blocks.0.txt_mlp.net.0.proj.weight"],
    "HiDream": ["double_stream_blocks.0.block.attn1.to_q.weight"],
    "a LoRA": ["lora_unet_down_blocks_0.lora_down.weight", "lora_unet_down_blocks_0.lora_up.weight"],
    "the UNet of Stable Diffusion alone": ["model.diffusion_model.input_blocks.0.0.weight"],
    "the UNet alone, in the layout of diffusers": ["down_blocks.0.resnets.0.conv1.weight", "conv_in.weight"],
    "a text encoder alone": ["text_model.encoder.layers.0.mlp.fc1.weight"],
    "no model that excise knows": ["something.else"],
}


def write(path, names, metadata=None):
    save_file({name: np.zeros((1, 1), dtype=np.float32) for name in names}, path, metadata=metadata)
    return path


BESIDE = [
    "FLUX",
    "FLUX.2",
    "Z-Image",
    "Stable Diffusion 3",
    "Chroma",
    "Qwen-Image",
    "Krea 2",
    "Lumina-Image 2.0",
    "SANA",
]


@pytest.mark.parametrize("title", [title for title in FILES if title not in BESIDE])
def test_a_single_file_of_another_architecture_is_named(tmp_path, title):
    path = write(tmp_path / "m.safetensors", FILES[title])
    with pytest.raises(ModelError, match=title) as error:
        check_model(path)
    assert "--config" not in str(error.value)


@pytest.mark.parametrize("title", BESIDE)
def test_a_transformer_in_one_file_asks_for_the_folder_of_the_other_parts(tmp_path, title):
    path = write(tmp_path / "m.safetensors", FILES[title])
    with pytest.raises(ModelError, match=f"the transformer of {title} alone; name a diffusers folder .* --config"):
        check_model(path)
    check_model(path, config="org/model-on-the-hub")


def test_a_single_file_of_an_architecture_that_is_read_as_a_folder_says_so(tmp_path):
    path = write(tmp_path / "m.safetensors", FILES["PixArt"])
    with pytest.raises(ModelError, match="PixArt, which is read as a diffusers folder only: give that; exc"):
        check_model(path)


@pytest.mark.parametrize(
    "pipeline", ["FluxPipeline", "ZImagePipeline", "StableDiffusion3Pipeline", "ChromaPipeline", "PixArtSigmaPipeline"]
)
def test_a_folder_of_a_supported_architecture_is_not_refused_for_its_class(tmp_path, pipeline):
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": pipeline}))
    with pytest.raises(ModelError, match=r"holds no \.safetensors weights"):
        check_model(tmp_path)


def test_an_edit_and_a_cut_file_are_no_models(tmp_path):
    path = write(tmp_path / "edit.safetensors", ["x"], {"excise": "{}"})
    with pytest.raises(ModelError, match="is an edit, not a model; give it to --edit"):
        check_model(path)
    path = write(tmp_path / "m.safetensors", FILES["FLUX"])
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(ModelError, match="damaged or cut short"):
        check_model(path)


@pytest.mark.parametrize(
    ("pipeline", "title"),
    [("HunyuanDiTPipeline", "HunyuanDiT"), ("AuraFlowPipeline", "AuraFlow"), ("WanPipeline", "Wan"),
     ("HiDreamImagePipeline", "HiDream"), ("PixArtAlphaPipeline", "PixArt-Alpha"), ("FluxFillPipeline", "FLUX"),
     ("Flux2KleinKVPipeline", "FLUX.2"), ("ZImageOmniPipeline", "Z-Image"), ("LuminaPipeline", "Lumina-Next"),
     ("QwenImage21Pipeline", "Qwen-Image 2.1"), ("QwenImageEditPlusPipeline", "Qwen-Image-Edit"),
     ("SanaVideoPipeline", "SANA-Video")],
)  # fmt: skip
def test_a_folder_of_another_architecture_is_named(tmp_path, pipeline, title):
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": pipeline}))
    with pytest.raises(ModelError, match=f"{title}: {pipeline} is not supported yet; supported are Stable"):
        check_model(tmp_path)


@pytest.mark.parametrize("name", ["./sd15", "models/sd/15", "/nowhere/sd15", "sd15/", "~/sd15", "models/x.safetensors"])
def test_a_missing_folder_is_not_taken_for_a_hub_id(name):
    with pytest.raises(ModelError, match="there is no file or folder"):
        check_model(name)


def test_a_name_below_a_folder_that_is_here_is_no_hub_id(tmp_path, monkeypatch):
    """`models/sd15` beside a folder `models` is a path that is misspelt; without such a folder it may be a hub id."""
    monkeypatch.chdir(tmp_path)
    check_model("models/sd15")
    (tmp_path / "models" / "sd-15").mkdir(parents=True)
    with pytest.raises(ModelError, match=r"there is no file or folder models/sd15 \(did you mean models/sd-15\?\)"):
        check_model("models/sd15")
    check_model("stabilityai/sd15")


def test_the_folder_that_is_named_most_alike_is_offered(tmp_path, monkeypatch):
    (tmp_path / "sd-15").mkdir()
    with pytest.raises(ModelError, match="did you mean .*sd-15"):
        check_model(tmp_path / "sd15")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    with pytest.raises(ModelError, match="there is no file or folder models/sd15;"):
        load("models/sd15", local_files_only=True)
    check_model("org/model")  # a hub id is not looked up


def test_a_folder_of_one_variant_says_which_option_reads_it(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "half", variant="fp16")
    with pytest.raises(ModelError, match="only as the variant fp16; add --variant fp16"):
        check_model(tmp_path / "half")
    check_model(tmp_path / "half", variant="fp16")
    with pytest.raises(ModelError, match="no weights of the variant 'bf16'; it has the variant fp16"):
        check_model(tmp_path / "half", variant="bf16")
    pipe.save_pretrained(tmp_path / "plain")
    check_model(tmp_path / "plain")
    with pytest.raises(ModelError, match="leave --variant out"):
        check_model(tmp_path / "plain", variant="fp16")
    assert load(tmp_path / "half", variant="fp16", device="cpu").name == "sd"


def test_a_folder_that_is_no_pipeline_says_what_it_is(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "sd")
    for folder, message in (
        ("sd/unet", "it is one part of the model in .*sd: give that folder"),
        (".", "a model is in .*sd: give that folder"),
        ("run", "it is the folder of an edit"),
        ("checkpoints", "it holds a.safetensors"),
    ):
        (tmp_path / folder).mkdir(exist_ok=True)
        if folder == "checkpoints":
            write(tmp_path / folder / "a.safetensors", ["x"])
        if folder == "run":
            write(tmp_path / folder / "edit.safetensors", ["x"])
        with pytest.raises(ModelError, match=f"no model_index.json; {message}"):
            check_model(tmp_path / folder)
    shutil.rmtree(tmp_path / "sd")


def test_a_configuration_is_a_folder(tmp_path):
    path = write(tmp_path / "m.safetensors", ["model.diffusion_model.input_blocks.0.0.weight", "cond_stage_model.x"])
    check_model(path)
    with pytest.raises(ModelError, match="is no diffusers folder"):
        check_model(path, config="./sd15")


def test_an_error_of_the_hub_points_at_no_trace_that_nobody_sees(monkeypatch):
    import diffusers

    def fail(*_: object, **__: object) -> None:
        try:
            raise ConnectionError("no route to the hub")
        except ConnectionError as cause:
            raise OSError("Please check out the root cause in the stacktrace above.") from cause

    monkeypatch.setattr(diffusers.DiffusionPipeline, "from_pretrained", fail)
    with pytest.raises(ModelError, match=r"no route to the hub\. is there a network") as error:
        load("org/model")
    assert "trace" not in str(error.value)


VERBS = {
    "erase": ["-c", "cat", "--out", "out"],
    "generate": ["-p", "a cat", "--out", "out"],
    "evaluate": ["-c", "cat", "--out", "out"],
    "attack": ["-c", "cat", "--out", "out"],
    "import": ["m.safetensors", "-c", "cat", "--out", "out"],
    "doctor": [],
}


@pytest.mark.parametrize("verb", VERBS)
def test_a_refusal_imports_nothing_large(tmp_path, verb):
    write(tmp_path / "m.safetensors", FILES["HiDream"])
    code = (
        f"import sys; sys.argv = ['excise', {verb!r}, *{VERBS[verb]!r}, '--model', 'm.safetensors']\n"
        "from excise.cli.main import run\n"
        "try:\n    run()\nexcept SystemExit as stop:\n    assert stop.code == 2, stop.code\n"
        "assert not {'torch', 'diffusers', 'transformers'} & set(sys.modules), 'imported'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "HiDream, which is not supported yet" in done.stderr
    assert not (tmp_path / "out").exists()
