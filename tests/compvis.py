"""A diffusers pipeline written in the one-file layout of the original Stable Diffusion, for loading tests."""

from __future__ import annotations

import re

import torch
from diffusers import StableDiffusionPipeline

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
_ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}


def single_file_state(pipe: StableDiffusionPipeline) -> dict[str, torch.Tensor]:
    """Every weight of `pipe` under its original name."""
    per_block = pipe.unet.config.layers_per_block + 1
    state = {f"model.diffusion_model.{_unet_name(k, per_block, pipe)}": v for k, v in pipe.unet.state_dict().items()}
    blocks = len(pipe.vae.config.block_out_channels)
    for k, v in pipe.vae.state_dict().items():
        name = _vae_name(k, blocks)
        as_convolution = "attn_1" in name and v.ndim == 2
        state[f"first_stage_model.{name}"] = v[:, :, None, None] if as_convolution else v
    for k, v in pipe.text_encoder.state_dict().items():
        state[f"cond_stage_model.transformer.text_model.{k.removeprefix('text_model.')}"] = v
    return {k: v.contiguous() for k, v in state.items()}


def _unet_name(key: str, per_block: int, pipe: StableDiffusionPipeline) -> str:
    for ours, theirs in _ENDS.items():
        if key.startswith(f"{ours}."):
            return key.replace(ours, theirs, 1)
    if match := re.fullmatch(r"mid_block\.(resnets|attentions)\.(\d)\.(.*)", key):
        number = 1 if match[1] == "attentions" else 2 * int(match[2])
        return f"middle_block.{number}.{_renamed(match[3], _RESNET) if match[1] == 'resnets' else match[3]}"
    side, block, kind, layer, rest = re.fullmatch(
        r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.*)", key
    ).groups()
    first = int(block) * per_block
    if kind == "downsamplers":
        return f"input_blocks.{first + per_block}.0.{rest.replace('conv', 'op', 1)}"
    if kind == "upsamplers":
        slot = 2 if "CrossAttn" in pipe.unet.config.up_block_types[int(block)] else 1
        return f"output_blocks.{first + per_block - 1}.{slot}.{rest}"
    place = f"input_blocks.{1 + first + int(layer)}" if side == "down" else f"output_blocks.{first + int(layer)}"
    return f"{place}.0.{_renamed(rest, _RESNET)}" if kind == "resnets" else f"{place}.1.{rest}"


def _vae_name(key: str, blocks: int) -> str:
    name = key.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
    name = re.sub(r"down_blocks\.(\d+)\.resnets", r"down.\1.block", name)
    name = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", name)
    name = re.sub(r"up_blocks\.(\d+)\.resnets", lambda m: f"up.{blocks - 1 - int(m[1])}.block", name)
    name = re.sub(r"up_blocks\.(\d+)\.upsamplers\.0", lambda m: f"up.{blocks - 1 - int(m[1])}.upsample", name)
    if "mid_block.attentions.0." in name:
        before, after = name.split("mid_block.attentions.0.")
        name = f"{before}mid.attn_1.{_renamed(after, _ATTENTION)}"
    return name


def _renamed(name: str, table: dict[str, str]) -> str:
    for ours, theirs in table.items():
        if name.startswith(f"{ours}."):
            return name.replace(ours, theirs, 1)
    return name
