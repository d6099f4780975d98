"""Weights of a model by role: which maps of the denoiser and of the text encoders a training method may choose."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import nn

from excise.families.maps import WeightMap
from excise.families.networks import bare, walk

ROLES: dict[str, Callable[[WeightMap], bool]] = {
    "cross_kv": lambda m: m.source == "cross" and m.part in ("k", "v"),
    "cross": lambda m: m.source == "cross",
    "self": lambda m: m.source == "self",
    "joint": lambda m: m.source in ("joint", "shared"),
    "attention": lambda m: m.source in ("cross", "self", "joint", "shared", "refiner"),
    "door": lambda m: m.source == "door",
    "text_mlp": lambda m: m.source == "text" and m.part == "mlp",
    "text_all": lambda m: m.source == "text" and m.part != "embedding",
    "embedding": lambda m: m.source == "text" and m.part == "embedding",
}
"""Keys and values that read text; all of cross-attention; all of self-attention; all attention over text and picture
together; all attention of the denoiser; the maps through which text enters a transformer; the MLPs of the text
encoders; all their linear maps; their token tables."""
STANDS_FOR = {"cross_kv": "door", "cross": "joint"}
"""What a role means in a transformer without cross-attention: its keys and values read what the doors give."""

_PARTS = {
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "out",
    "to_out": "out",
    "add_q_proj": "add_q",
    "add_k_proj": "add_k",
    "add_v_proj": "add_v",
    "to_add_out": "add_out",
}
_BLOCK = re.compile(r".*?attentions\.\d+|\w*transformer_blocks\.\d+")
_ENCODER_BLOCK = re.compile(r".*?(layers|blocks?|h)\.\d+")
_ENCODER_PARTS = {
    "attention": re.compile(r"\.(self_attn|self_attention|attention|attn|SelfAttention)\."),
    "mlp": re.compile(r"\.(mlp|DenseReluDense|feed_forward)\."),
}


def attention_layers(denoiser: Any) -> Iterator[tuple[str, Any]]:
    """Attention layers by path: the modules with maps `to_q`, `to_k` and `to_v`, whatever their class."""
    for path, module in walk(denoiser):
        if all(module._modules.get(name) is not None for name in ("to_q", "to_k", "to_v")):
            yield path, module


def layer_maps(path: str, layer: Any, source: str) -> Iterator[WeightMap]:
    """The linear maps of one attention layer.

    Args:
        source: see `WeightMap`.
    """
    match = _BLOCK.match(path)
    for child, part in _PARTS.items():
        linear = _descend(layer, child)
        if linear is not None and not isinstance(linear, nn.ModuleList):
            yield WeightMap(f"{path}.{child}", match.group() if match else path, source, part)


def encoder_maps(encoders: Mapping[str, Any]) -> Iterator[WeightMap]:
    """The linear maps and the token tables of text encoders, by name.

    Paths leave out the level `text_model`, as those of edits do (see `module_in`). A token table that is also read by
    another module (T5's) is left out: new weights in one of them would not reach the other.
    """
    for name, encoder in encoders.items():
        tables = token_tables(encoder)
        for inner, module in walk(encoder):
            path = f"{name}.{inner.removeprefix('text_model.')}"
            match = _ENCODER_BLOCK.match(path)
            block = match.group() if match else name
            if len(tables) == 1 and module is bare(tables[0]):
                yield WeightMap(path, block, "text", "embedding")
            elif isinstance(module, nn.Linear):
                parts = (part for part, pattern in _ENCODER_PARTS.items() if pattern.search(path))
                yield WeightMap(path, block, "text", next(parts, "other"))


def token_tables(encoder: Any) -> list[nn.Module]:
    """The token table of a text encoder, wrapped as it is, and what else holds its weight: T5 reads by its own."""
    table = bare(encoder).get_input_embeddings()
    inner = bare(table)
    tied = [m for m in encoder.modules() if isinstance(m, nn.Embedding) and m.weight is inner.weight]
    return [table, *(m for m in tied if m is not inner)]


def _descend(layer: Any, child: str) -> Any:
    """A child of a layer by its path, without wrappers, or None."""
    for name in child.split("."):
        layer = None if layer is None else bare(layer)._modules.get(name)
    return None if layer is None else bare(layer)
