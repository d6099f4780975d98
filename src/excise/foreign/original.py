"""What the modules of a UNet are called in checkpoints of the original Stable Diffusion and SDXL."""

from __future__ import annotations

from typing import Any

ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}


def original_names(unet: Any) -> dict[str, str]:
    """Original names by the names of diffusers: of whole blocks, and of the modules that are called otherwise there.

    A resnet's own modules are renamed too; those of attention are called alike in both.
    """
    return {**ENDS, **_inside(_blocks(unet))}


def original_name(path: str, table: dict[str, str]) -> str | None:
    """The original name of a module or parameter of the UNet; None where it has none.

    Args:
        table: what `original_names` gave.
    """
    parts = path.split(".")
    for n in range(len(parts), 0, -1):  # the longest name that is known
        if (found := table.get(".".join(parts[:n]))) is not None:
            return ".".join([found, *parts[n:]])
    return None


def _blocks(unet: Any) -> dict[str, str]:
    """Resnets, attention and samplers, numbered through as the original does: one number a resnet and a downsampler."""
    found = {
        "mid_block.resnets.0": "middle_block.0",
        "mid_block.attentions.0": "middle_block.1",
        "mid_block.resnets.1": "middle_block.2",
    }
    number = 1  # input_blocks.0 is conv_in
    for i, block in enumerate(unet.down_blocks):
        for j in range(len(block.resnets)):
            found[f"down_blocks.{i}.resnets.{j}"] = f"input_blocks.{number}.0"
            found[f"down_blocks.{i}.attentions.{j}"] = f"input_blocks.{number}.1"
            number += 1
        if getattr(block, "downsamplers", None):
            found[f"down_blocks.{i}.downsamplers.0.conv"] = f"input_blocks.{number}.0.op"
            number += 1
    number = 0
    for i, block in enumerate(unet.up_blocks):
        for j in range(len(block.resnets)):
            found[f"up_blocks.{i}.resnets.{j}"] = f"output_blocks.{number}.0"
            found[f"up_blocks.{i}.attentions.{j}"] = f"output_blocks.{number}.1"
            number += 1
        if getattr(block, "upsamplers", None):
            after = 2 if getattr(block, "attentions", None) else 1
            found[f"up_blocks.{i}.upsamplers.0"] = f"output_blocks.{number - 1}.{after}"
    return found


def _inside(blocks: dict[str, str]) -> dict[str, str]:
    resnets = {
        f"{ours}.{child}": f"{theirs}.{original}"
        for ours, theirs in blocks.items()
        if ".resnets." in ours
        for child, original in RESNET.items()
    }
    return {**blocks, **resnets}
