"""Names of the weights of diffusion transformers in their original checkpoints, from their names in diffusers.

One row of a table a weight, one table a family. An original weight may stack several of diffusers' by their rows (the
queries, keys and values of an attention layer), or hold the halves of one in the other order.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from excise.errors import WrongBaseError


@dataclass(frozen=True)
class Piece:
    """Consecutive rows of a weight in diffusers.

    Attributes:
        name: of the weight.
        part: which of its `parts` equal parts of rows, from 0.
    """

    name: str
    part: int = 0
    parts: int = 1

    def rows(self, weight: Tensor) -> Tensor:
        """Its rows of a weight."""
        size = len(weight) // self.parts
        return weight[self.part * size : (self.part + 1) * size]


@dataclass(frozen=True)
class OriginalNames:
    """How the original checkpoint of a family names the weights of its transformer.

    Attributes:
        rows: by original name, what stands there in diffusers, from the first row on. `*` stands for a number, the same
            on both sides. A name without an ending is that of a module, and stands for its weight and its bias.
        rest: whether the weights that no row names are called the same in both; otherwise there is no other.
    """

    rows: Mapping[str, Sequence[str | Piece]] = field(default_factory=dict)
    rest: bool = False


def _attention(theirs: str, ours: str, parts: Sequence[str]) -> dict[str, Sequence[str]]:
    return {theirs: [f"{ours}.{part}" for part in parts]}


_QKV, _ADDED = ("to_q", "to_k", "to_v"), ("add_q_proj", "add_k_proj", "add_v_proj")
_DOUBLE, _SINGLE = "transformer_blocks.*", "single_transformer_blocks.*"
_REFINED = ("layers", "noise_refiner", "context_refiner")

_KREA_BLOCK = {
    **{f"attn.w{part}": f"attn.to_{part}" for part in "qkv"},
    "attn.gate": "attn.to_gate",
    "attn.wo": "attn.to_out.0",
    **{f"mlp.{part}": f"ff.{part}" for part in ("gate", "up", "down")},
}

ORIGINAL_NAMES: dict[str, OriginalNames] = {
    "flux": OriginalNames(
        {
            "txt_in": ["context_embedder"],
            "img_in": ["x_embedder"],
            **{
                f"{theirs}.{end}_layer": [f"time_text_embed.{ours}_embedder.linear_{number}"]
                for theirs, ours in (("time_in", "timestep"), ("vector_in", "text"), ("guidance_in", "guidance"))
                for end, number in (("in", 1), ("out", 2))
            },
            "double_blocks.*.img_mod.lin": [f"{_DOUBLE}.norm1.linear"],
            "double_blocks.*.txt_mod.lin": [f"{_DOUBLE}.norm1_context.linear"],
            **_attention("double_blocks.*.img_attn.qkv", f"{_DOUBLE}.attn", _QKV),
            **_attention("double_blocks.*.txt_attn.qkv", f"{_DOUBLE}.attn", _ADDED),
            "double_blocks.*.img_attn.proj": [f"{_DOUBLE}.attn.to_out.0"],
            "double_blocks.*.txt_attn.proj": [f"{_DOUBLE}.attn.to_add_out"],
            "double_blocks.*.img_attn.norm.query_norm.scale": [f"{_DOUBLE}.attn.norm_q.weight"],
            "double_blocks.*.img_attn.norm.key_norm.scale": [f"{_DOUBLE}.attn.norm_k.weight"],
            "double_blocks.*.txt_attn.norm.query_norm.scale": [f"{_DOUBLE}.attn.norm_added_q.weight"],
            "double_blocks.*.txt_attn.norm.key_norm.scale": [f"{_DOUBLE}.attn.norm_added_k.weight"],
            "double_blocks.*.img_mlp.0": [f"{_DOUBLE}.ff.net.0.proj"],
            "double_blocks.*.img_mlp.2": [f"{_DOUBLE}.ff.net.2"],
            "double_blocks.*.txt_mlp.0": [f"{_DOUBLE}.ff_context.net.0.proj"],
            "double_blocks.*.txt_mlp.2": [f"{_DOUBLE}.ff_context.net.2"],
            "single_blocks.*.modulation.lin": [f"{_SINGLE}.norm.linear"],
            "single_blocks.*.linear1": [*(f"{_SINGLE}.attn.{p}" for p in _QKV), f"{_SINGLE}.proj_mlp"],
            "single_blocks.*.linear2": [f"{_SINGLE}.proj_out"],
            "single_blocks.*.norm.query_norm.scale": [f"{_SINGLE}.attn.norm_q.weight"],
            "single_blocks.*.norm.key_norm.scale": [f"{_SINGLE}.attn.norm_k.weight"],
            "final_layer.linear": ["proj_out"],
            # The original gives shift and scale, diffusers scale and shift.
            "final_layer.adaLN_modulation.1": [Piece("norm_out.linear", 1, 2), Piece("norm_out.linear", 0, 2)],
        }
    ),
    "zimage": OriginalNames(
        {
            "x_embedder": ["all_x_embedder.2-1"],
            "final_layer.linear": ["all_final_layer.2-1.linear"],
            "final_layer.adaLN_modulation.1": ["all_final_layer.2-1.adaLN_modulation.1"],
            **{
                theirs: ours
                for blocks in _REFINED
                for theirs, ours in {
                    **_attention(f"{blocks}.*.attention.qkv", f"{blocks}.*.attention", _QKV),
                    f"{blocks}.*.attention.out": [f"{blocks}.*.attention.to_out.0"],
                    f"{blocks}.*.attention.q_norm": [f"{blocks}.*.attention.norm_q"],
                    f"{blocks}.*.attention.k_norm": [f"{blocks}.*.attention.norm_k"],
                }.items()
            },
        },
        rest=True,
    ),
    "flux2": OriginalNames(
        {
            "txt_in": ["context_embedder"],
            "img_in": ["x_embedder"],
            **{
                f"{theirs}_in.{end}_layer": [f"time_guidance_embed.{ours}_embedder.linear_{number}"]
                for theirs, ours in (("time", "timestep"), ("guidance", "guidance"))
                for end, number in (("in", 1), ("out", 2))
            },
            **{
                f"{modulation}.lin": [f"{modulation}.linear"]
                for modulation in (
                    *("double_stream_modulation_img", "double_stream_modulation_txt"),
                    "single_stream_modulation",
                )
            },
            **_attention("double_blocks.*.img_attn.qkv", f"{_DOUBLE}.attn", _QKV),
            **_attention("double_blocks.*.txt_attn.qkv", f"{_DOUBLE}.attn", _ADDED),
            "double_blocks.*.img_attn.proj": [f"{_DOUBLE}.attn.to_out.0"],
            "double_blocks.*.txt_attn.proj": [f"{_DOUBLE}.attn.to_add_out"],
            **{
                f"double_blocks.*.{theirs}_attn.norm.{name}_norm.scale": [f"{_DOUBLE}.attn.norm_{ours}{name[0]}.weight"]
                for theirs, ours in (("img", ""), ("txt", "added_"))
                for name in ("query", "key")
            },
            "double_blocks.*.img_mlp.0": [f"{_DOUBLE}.ff.linear_in"],
            "double_blocks.*.img_mlp.2": [f"{_DOUBLE}.ff.linear_out"],
            "double_blocks.*.txt_mlp.0": [f"{_DOUBLE}.ff_context.linear_in"],
            "double_blocks.*.txt_mlp.2": [f"{_DOUBLE}.ff_context.linear_out"],
            "single_blocks.*.linear1": [f"{_SINGLE}.attn.to_qkv_mlp_proj"],
            "single_blocks.*.linear2": [f"{_SINGLE}.attn.to_out"],
            "single_blocks.*.norm.query_norm.scale": [f"{_SINGLE}.attn.norm_q.weight"],
            "single_blocks.*.norm.key_norm.scale": [f"{_SINGLE}.attn.norm_k.weight"],
            "final_layer.linear": ["proj_out"],
            "final_layer.adaLN_modulation.1": [Piece("norm_out.linear", 1, 2), Piece("norm_out.linear", 0, 2)],
        }
    ),
    # Of the next two, the maps that edits change: modulation and the last layer are called otherwise by the block.
    "sd3": OriginalNames(
        {
            "context_embedder": ["context_embedder"],
            **{
                f"{theirs}_embedder.mlp.{place}": [f"time_text_embed.{ours}_embedder.linear_{number}"]
                for theirs, ours in (("y", "text"), ("t", "timestep"))
                for place, number in ((0, 1), (2, 2))
            },
            **_attention("joint_blocks.*.x_block.attn.qkv", f"{_DOUBLE}.attn", _QKV),
            **_attention("joint_blocks.*.x_block.attn2.qkv", f"{_DOUBLE}.attn2", _QKV),
            **_attention("joint_blocks.*.context_block.attn.qkv", f"{_DOUBLE}.attn", _ADDED),
            "joint_blocks.*.x_block.attn.proj": [f"{_DOUBLE}.attn.to_out.0"],
            "joint_blocks.*.x_block.attn2.proj": [f"{_DOUBLE}.attn2.to_out.0"],
            "joint_blocks.*.context_block.attn.proj": [f"{_DOUBLE}.attn.to_add_out"],
            "joint_blocks.*.x_block.mlp.fc1": [f"{_DOUBLE}.ff.net.0.proj"],
            "joint_blocks.*.x_block.mlp.fc2": [f"{_DOUBLE}.ff.net.2"],
            "joint_blocks.*.context_block.mlp.fc1": [f"{_DOUBLE}.ff_context.net.0.proj"],
            "joint_blocks.*.context_block.mlp.fc2": [f"{_DOUBLE}.ff_context.net.2"],
        }
    ),
    "krea2": OriginalNames(
        {
            "txtmlp.1": ["txt_in.linear_1"],
            "txtmlp.3": ["txt_in.linear_2"],
            "txtfusion.projector": ["text_fusion.projector"],
            **{
                f"{theirs_blocks}.*.{theirs}": [f"{ours_blocks}.*.{ours}"]
                for theirs_blocks, ours_blocks in (
                    ("blocks", "transformer_blocks"),
                    *((f"txtfusion.{b}_blocks", f"text_fusion.{b}_blocks") for b in ("layerwise", "refiner")),
                )
                for theirs, ours in _KREA_BLOCK.items()
            },
        }
    ),
    "qwenimage": OriginalNames(rest=True),
}
"""By family. They are the inverse of the converters in diffusers 0.42.1, loaders/single_file_utils.py
(`convert_flux_transformer_checkpoint_to_diffusers` and its like for each family)."""


def original_pieces(family: str, names: Collection[str], whole: bool = True) -> dict[str, tuple[Piece, ...]]:
    """Return, by the name of each weight in the original checkpoint, the pieces of which it consists, first row first.

    Args:
        family: of the transformer; of one that is not in `ORIGINAL_NAMES`, no original names are known.
        names: of all weights of the transformer in diffusers.
        whole: whether a weight without a name there is an error; otherwise it is left out.

    Raises:
        WrongBaseError: a weight has no name there, or a part of an original weight is missing.
    """
    table = ORIGINAL_NAMES.get(family, OriginalNames())
    pieces, left = dict[str, tuple[Piece, ...]](), dict.fromkeys(names)
    for name in names:
        for theirs, ours in table.rows.items():
            parts = [part if isinstance(part, Piece) else Piece(part) for part in ours]
            match = re.fullmatch(_pattern(parts[0].name), name)
            if match is None:
                continue
            number, end = match.groupdict().get("number") or "", match["end"]
            row = tuple(Piece(p.name.replace("*", number) + end, p.part, p.parts) for p in parts)
            if missing := [p.name for p in row if p.name not in names]:
                raise WrongBaseError(f"this transformer has no '{missing[0]}', which stands beside '{name}'.")
            pieces[theirs.replace("*", number) + end] = row
            for piece in row:
                left.pop(piece.name, None)
    if not table.rest and not whole:
        return pieces
    if left and not table.rest:
        raise WrongBaseError(
            f"the original layout of this family has no place for '{next(iter(left))}'; use --format merged."
        )
    return pieces | {name: (Piece(name),) for name in left}


def _pattern(name: str) -> str:
    """The pattern of the weights that a name of a table stands for, with their number and their ending."""
    whole = name.endswith((".weight", ".bias"))
    return re.escape(name).replace(r"\*", r"(?P<number>\d+)", 1) + (
        "(?P<end>)" if whole else r"(?P<end>\.weight|\.bias)"
    )


def stacked(pieces: Sequence[Piece], weights: Mapping[str, Tensor]) -> Tensor:
    """An original weight from those of diffusers."""
    if len(pieces) == 1:
        return weights[pieces[0].name]
    return torch.cat([piece.rows(weights[piece.name]) for piece in pieces])


def spans(pieces: Sequence[Piece], lengths: Mapping[str, int]) -> list[tuple[Piece, slice, slice]]:
    """Each piece of an original weight, its rows in that weight, and its rows in the weight of diffusers.

    Args:
        lengths: number of rows of the weights in diffusers, by name.
    """
    found, start = [], 0
    for piece in pieces:
        size = lengths[piece.name] // piece.parts
        found.append((piece, slice(start, start + size), slice(piece.part * size, (piece.part + 1) * size)))
        start += size
    return found
