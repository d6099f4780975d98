"""The original names of SDXL's maps: read by diffusers, which derives them the other way, and by our own import."""

from __future__ import annotations

import re

import pytest
import torch
from conftest import SCHEDULE, VAE, WIDTH, _clip_config, _ready
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from safetensors.torch import load_file
from torch import nn
from torch.testing import assert_close
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from excise import erase, export
from excise.edits.deltas import Dense, LowRank
from excise.edits.edit import Edit
from excise.edits.originals import original_weights
from excise.errors import WrongBaseError
from excise.families import family_of
from excise.families.original_names import unet_name
from excise.importing.import_edit import import_edit


@pytest.fixture(scope="module")
def sdxl(tokenizer):
    """SDXL with its own layout of blocks and layers (2 and 10 in a transformer), a few channels wide."""
    torch.manual_seed(0)
    half = WIDTH // 2
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(4, 8, 8),
        layers_per_block=2,
        transformer_layers_per_block=[1, 2, 10],
        attention_head_dim=[1, 2, 2],
        norm_num_groups=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=WIDTH + half,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=half + 48,
    )
    return _ready(
        StableDiffusionXLPipeline(
            AutoencoderKL(**VAE),
            CLIPTextModel(_clip_config(tokenizer)),
            CLIPTextModelWithProjection(_clip_config(tokenizer, half)),
            tokenizer,
            tokenizer,
            unet,
            DDIMScheduler(**SCHEDULE, clip_sample=False),
            add_watermarker=False,
        )
    )


@pytest.fixture(scope="module")
def everywhere(sdxl) -> Edit:
    """A change of every linear map and convolution of the denoiser, of rank two and now and then three."""
    generator = torch.Generator().manual_seed(1)
    modules = {}
    for path, module in sdxl.unet.named_modules():
        middle = re.search(r"transformer_blocks\.[2-8]\.", path)  # as the layers around them, and there are many
        if isinstance(module, nn.Linear | nn.Conv2d) and not middle:
            out, into = module.weight.shape[0], module.weight[0].numel()
            rank = 3 if len(modules) % 40 == 7 else 2
            b, a = (torch.randn(*s, generator=generator) / 20 for s in ((out, rank), (rank, into)))
            modules[path] = LowRank(b, a) if isinstance(module, nn.Linear) else Dense((b @ a).view(module.weight.shape))
    record = erase(sdxl, ["cat"], "uce", preserve=["dog"], vocabulary=None).record
    return Edit(record, modules=modules)


def effective(unet: nn.Module, paths: list[str]) -> dict[str, torch.Tensor]:
    """Weights with a loaded LoRA in them."""
    found = {}
    for path in paths:
        layer = unet.get_submodule(path)
        weight = getattr(layer, "base_layer", layer).weight
        if hasattr(layer, "get_delta_weight"):
            weight = weight + layer.get_delta_weight(layer.active_adapters[0])
        found[path] = weight.detach()
    return found


def test_every_map_and_convolution_of_sdxl_arrives_in_diffusers(sdxl, everywhere, tmp_path):
    paths = everywhere.paths
    base = original_weights(family_of(sdxl), paths)
    done = export(everywhere, sdxl, tmp_path, for_="comfyui")
    assert done.format == "kohya-lora"
    assert done.error < 1e-5
    sdxl.load_lora_weights(str(tmp_path), weight_name=done.path.name)
    try:
        for path, found in effective(sdxl.unet, paths).items():
            wanted = base[path] + everywhere.delta(path, base[path])
            assert_close(found, wanted, rtol=1e-5, atol=1e-6, msg=path)
    finally:
        sdxl.unload_lora_weights()


def test_names_are_the_original_ones_and_never_mixed(sdxl, everywhere, tmp_path):
    names = {n.split(".")[0] for n in load_file(export(everywhere, sdxl, tmp_path, "kohya-lora").path)}
    assert len(names) == len(everywhere.paths)
    ours = (
        "down_blocks",
        "up_blocks",
        "mid_block",
        "add_embedding",
        "time_embedding",
        "conv_in",
        "conv_out",
        "resnets",
    )
    assert not [n for n in names if any(word in n for word in ours)]
    assert {
        "lora_unet_label_emb_0_0",
        "lora_unet_time_embed_2",
        "lora_unet_out_2",
        "lora_unet_input_blocks_0_0",
        "lora_unet_input_blocks_3_0_op",
        "lora_unet_input_blocks_4_1_transformer_blocks_1_attn2_to_k",
        "lora_unet_input_blocks_8_1_transformer_blocks_9_attn2_to_v",
        "lora_unet_middle_block_1_transformer_blocks_9_attn2_to_k",
        "lora_unet_middle_block_2_in_layers_2",
        "lora_unet_output_blocks_0_1_transformer_blocks_9_attn2_to_k",
        "lora_unet_output_blocks_2_2_conv",
        "lora_unet_output_blocks_5_1_transformer_blocks_1_attn2_to_k",
        "lora_unet_output_blocks_8_0_skip_connection",
    } <= names
    assert not any(n.startswith("lora_unet_output_blocks_6_1") for n in names)


def test_what_a_closed_form_edits_of_sdxl_comes_back_by_our_import(sdxl, tmp_path):
    edit = erase(sdxl, ["cat"], "uce", preserve=["dog"], vocabulary=None)
    assert len(edit.paths) == 141  # keys and values of 70 layers, and the pooled map
    done = export(edit, sdxl, tmp_path)
    assert {n: (r.taken, r.maps) for n, r in done.readers.items()} == {
        "comfyui": (141, 141),
        "webui": (141, 141),
        "invokeai": (141, 141),
        "sd-cpp": (140, 141),
        "sd-scripts": (140, 141),
        "diffusers": (141, 141),
    }
    back = import_edit(done.path, sdxl, ["cat"])
    weights = original_weights(family_of(sdxl), edit.paths)
    assert back.paths == edit.paths
    for path in edit.paths:
        assert_close(back.delta(path, weights[path]), edit.delta(path, weights[path]), rtol=1e-4, atol=1e-6)


def test_what_the_original_layout_does_not_have_is_refused(sdxl):
    with pytest.raises(WrongBaseError, match="no place for 'encoder_hid_proj'"):
        unet_name("encoder_hid_proj", sdxl.unet.config)
