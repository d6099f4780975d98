"""Text encoders in the names of OpenCLIP, as single files of Stable Diffusion 2 and SDXL hold them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from torch import Tensor

from excise.importing.names import Names

PREFIXES = {"cond_stage_model.model.": 0, "conditioner.embedders.1.model.": 1}  # and the encoder it is of
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
    """The same tensors, those of OpenCLIP in the names of the base's encoders; all others as they are.

    Queries, keys and values are one matrix there. What the base leaves out because it is not read (the last layer and
    the projection of Stable Diffusion 2) is left out.
    """
    found: dict[str, Tensor] = {}
    for name, tensor in state.items():
        prefix = next((p for p in PREFIXES if name.startswith(p)), None)
        if prefix is None or PREFIXES[prefix] >= len(names.encoders):
            found[name] = tensor
            continue
        encoder = names.encoders[PREFIXES[prefix]]
        rows = {f"{encoder}.{ours}": t for ours, t in _renamed(name.removeprefix(prefix), tensor)}
        found |= {ours: t for ours, t in rows.items() if ours in names.parameters} if _unread(name) else rows
    return found


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


def _unread(name: str) -> bool:
    """Whether the base may have left a tensor out because nothing reads it."""
    return "resblocks" in name or name.endswith(("text_projection", "logit_scale", "attn_mask"))
