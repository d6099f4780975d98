"""Layers of text encoders whose MLPs are added to the residual stream without a norm, by kind of encoder."""

from __future__ import annotations

from typing import Any

from excise.families.maps import EncoderLayer


def clip_layers(name: str, encoder: Any, unread: int = 0) -> list[EncoderLayer]:
    """The layers of a CLIP text encoder.

    Args:
        name: of the encoder in the pipeline.
        unread: number of layers at the end that the text states do not pass.
    """
    paths = [f"{name}.encoder.layers.{i}" for i in range(int(encoder.config.num_hidden_layers) - unread)]
    return [EncoderLayer(name, path, f"{path}.mlp.fc2") for path in paths]


def t5_layers(name: str, encoder: Any) -> list[EncoderLayer]:
    """The layers of a T5 encoder; see `clip_layers`."""
    paths = [f"{name}.encoder.block.{i}" for i in range(int(encoder.config.num_layers))]
    return [EncoderLayer(name, path, f"{path}.layer.1.DenseReluDense.wo") for path in paths]


def decoder_layers(name: str, encoder: Any, unread: int = 0) -> list[EncoderLayer]:
    """The layers of a decoder whose MLPs are added as they are (Qwen, not Gemma); see `clip_layers`."""
    paths = [f"{name}.layers.{i}" for i in range(int(encoder.config.num_hidden_layers) - unread)]
    return [EncoderLayer(name, path, f"{path}.mlp.down_proj") for path in paths]
