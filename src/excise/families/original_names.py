"""Names of weights in original checkpoints of Stable Diffusion, from their names in diffusers.

Derived from the structure: an original UNet numbers its layers through, `input_blocks.N.0` a residual layer, `.1` the
attention behind it, and a block of n layers with its sampler takes n + 1 numbers. Every number comes from the UNet's
own configuration (arXiv 2112.10752 and 2307.01952 with their programs' layouts).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from excise.errors import WrongBaseError

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_VAE = {
    "conv_norm_out": "norm_out",
    "mid_block.resnets.0": "mid.block_1",
    "mid_block.resnets.1": "mid.block_2",
    "mid_block.attentions.0": "mid.attn_1",
}
_VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
_OPEN_CLIP = {
    "self_attn.out_proj": "attn.out_proj",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}
_BLOCK = re.compile(r"(?P<side>down|up)_blocks\.(?P<block>\d+)\.(?P<kind>\w+)\.(?P<layer>\d+)\.(?P<rest>.+)")
_MIDDLE = re.compile(r"mid_block\.(?P<kind>resnets|attentions)\.(?P<layer>[01])\.(?P<rest>.+)")


def unet_name(name: str, config: Mapping[str, Any]) -> str:
    """The original name of a module or weight of a UNet.

    >>> config = {"layers_per_block": 2, "down_block_types": ("D", "C", "C"), "up_block_types": ("CrossAttn",) * 3}
    >>> unet_name("down_blocks.1.attentions.0.transformer_blocks.1.attn2.to_k", config)
    'input_blocks.4.1.transformer_blocks.1.attn2.to_k'
    >>> unet_name("add_embedding.linear_1.weight", config)
    'label_emb.0.0.weight'

    Raises:
        WrongBaseError: the original layout has no such layer.
    """
    if (end := _renamed(name, _ENDS)) != name:
        return end
    if middle := _MIDDLE.fullmatch(name):
        if middle["kind"] == "attentions":
            return f"middle_block.1.{middle['rest']}"
        return f"middle_block.{2 * int(middle['layer'])}.{_renamed(middle['rest'], _RESNET)}"
    if match := _BLOCK.fullmatch(name):
        block, layer, rest = int(match["block"]), int(match["layer"]), match["rest"]
        layers = _layers(config, match["side"])
        first = sum(n + 1 for n in layers[:block])
        down = match["side"] == "down"
        place = f"input_blocks.{1 + first + layer}" if down else f"output_blocks.{first + layer}"
        if match["kind"] == "resnets":
            return f"{place}.0.{_renamed(rest, _RESNET)}"
        if match["kind"] == "attentions":
            return f"{place}.1.{rest}"
        if match["kind"] == "downsamplers":
            return f"input_blocks.{1 + first + layers[block]}.0.{_renamed(rest, {'conv': 'op'})}"
        if match["kind"] == "upsamplers":
            slot = 2 if "CrossAttn" in config["up_block_types"][block] else 1
            return f"output_blocks.{first + layers[block]}.{slot}.{rest}"
    raise WrongBaseError(f"the original layout of this family has no place for '{name}'; use --format merged.")


def vae_name(name: str, blocks: int) -> str:
    """The original name of a weight of the autoencoder, whose decoder numbers its `blocks` backwards."""
    side, _, rest = name.partition(".")
    if side not in ("encoder", "decoder"):
        return name
    rest = re.sub(r"^down_blocks\.(\d+)\.resnets", r"down.\1.block", rest)
    rest = re.sub(r"^down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", rest)
    rest = re.sub(r"^up_blocks\.(\d+)\.resnets", lambda m: f"up.{blocks - 1 - int(m[1])}.block", rest)
    rest = re.sub(r"^up_blocks\.(\d+)\.upsamplers\.0", lambda m: f"up.{blocks - 1 - int(m[1])}.upsample", rest)
    rest = _renamed(rest, _VAE).replace(".conv_shortcut.", ".nin_shortcut.")
    if rest.startswith("mid.attn_1."):
        rest = "mid.attn_1." + _renamed(rest.removeprefix("mid.attn_1."), _VAE_ATTENTION)
    return f"{side}.{rest}"


def open_clip(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a CLIP text encoder in the layout of OpenCLIP, which is exact.

    Queries, keys and values lie in one matrix there, and the projection is transposed.

    Args:
        state: as transformers has them, without the level `text_model.`.
    """
    whole = {
        "token_embedding.weight": state["embeddings.token_embedding.weight"],
        "positional_embedding": state["embeddings.position_embedding.weight"],
        "ln_final.weight": state["final_layer_norm.weight"],
        "ln_final.bias": state["final_layer_norm.bias"],
    }
    if "text_projection.weight" in state:
        whole["text_projection"] = state["text_projection.weight"].mT
    for name, tensor in state.items():
        layer = re.fullmatch(r"encoder\.layers\.(\d+)\.(.+)", name)
        if layer is None:
            continue
        block, rest = f"transformer.resblocks.{layer[1]}", layer[2]
        if (renamed := _renamed(rest, _OPEN_CLIP)) != rest:
            whole[f"{block}.{renamed}"] = tensor
        elif rest.startswith("self_attn.q_proj."):
            kind = rest.rpartition(".")[2]
            parts = [state[f"encoder.layers.{layer[1]}.self_attn.{p}_proj.{kind}"] for p in "qkv"]
            whole[f"{block}.attn.in_proj_{kind}"] = torch.cat(parts)
    return whole


def is_fused(name: str) -> bool:
    """Whether a weight is a copy that `fuse_qkv_projections` made, which no edit changes."""
    return any(f".{fused}." in name for fused in ("to_qkv", "to_kv"))


def _layers(config: Mapping[str, Any], side: str) -> list[int]:
    """Residual layers of each block before the one that the sampler's number stands for, from the top or the bottom."""
    given = config["layers_per_block"]
    layers = [given] * len(config[f"{side}_block_types"]) if isinstance(given, int) else list(given)
    return layers if side == "down" else layers[::-1]


def _renamed(name: str, table: Mapping[str, str]) -> str:
    """`name` with its first levels replaced, where `table` has them."""
    for ours, theirs in table.items():
        if name == ours or name.startswith(f"{ours}."):
            return theirs + name[len(ours) :]
    return name
