"""Translate OpenCLIP's names of text encoders, which single files of Stable Diffusion 2 and SDXL use."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from torch import Tensor

from excise.importing.names import Names

PREFIXES = {"cond_stage_model.model.": 0, "conditioner.embedders.1.model.": 1}  # number of the text encoder by prefix
WHOLE = {
    "token_embedding.weight": "embeddings.token_embedding.weight",
    "positional_embedding": "embeddings.position_embedding.weight",
    "ln_final.weight": "final_layer_norm.weight",
    "ln_final.bias": "final_layer_norm.bias",
}
LAYER = {"ln_1": "layer_norm1", "ln_2": "layer_norm2", "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}
LAYER["attn.out_proj"] = "self_attn.out_proj"
_LAYER = re.compile(r"transformer\.resblocks\.(?P<number>\d+)\.(?P<child>.+?)[._](?P<kind>weight|bias)")


def from_open_clip(state: Mapping[str, Tensor], names: Names) -> dict[str, Tensor]:
    """Return the tensors with OpenCLIP's names replaced by those of the base's encoders; other names stay.

    The joint matrix of queries, keys and values is split. The last layer and the projection of Stable Diffusion 2 are
    dropped if the base lacks them, since their output is never used.
    """
    renamed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        prefix = next((p for p in PREFIXES if name.startswith(p)), None)
        if prefix is None or PREFIXES[prefix] >= len(names.encoders):
            renamed[name] = tensor
            continue
        encoder = names.encoders[PREFIXES[prefix]]
        rows = {f"{encoder}.{ours}": t for ours, t in _renamed(name.removeprefix(prefix), tensor)}
        renamed |= {ours: t for ours, t in rows.items() if ours in names.parameters} if _is_optional(name) else rows
    return renamed


def _renamed(name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    if name == "text_projection":
        yield "text_projection.weight", tensor.T
    elif match := _LAYER.fullmatch(name):
        layer, child, kind = f"encoder.layers.{match['number']}", match["child"], match["kind"]
        if child == "attn.in_proj":
            for part, third in zip("qkv", tensor.chunk(3), strict=True):
                yield f"{layer}.self_attn.{part}_proj.{kind}", third
        else:
            yield f"{layer}.{LAYER.get(child, child)}.{kind}", tensor
    else:
        yield WHOLE.get(name, name), tensor


def _is_optional(name: str) -> bool:
    """Return whether the base may lack a tensor because its output is never used."""
    return "resblocks" in name or name.endswith(("text_projection", "logit_scale", "attn_mask"))
