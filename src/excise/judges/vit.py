"""The judge of the UnlearnCanvas benchmark (arXiv 2402.11846): a ViT-L/16 for styles and one for objects."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from torch import Tensor

from excise.errors import ModelError
from excise.judges.local import (
    Classifier,
    Network,
    check_head,
    check_shapes,
    find_files,
    load_classifier,
    read_state,
    resized_square,
    tensor_named,
    told_apart,
)
from excise.protocols.unlearncanvas import OBJECTS, STYLE_HEAD

NAME = "unlearncanvas-vit"
FILES = {"style": "style.safetensors|style.pth", "object": "object.safetensors|object.pth"}
LABELS = {"style": STYLE_HEAD, "object": OBJECTS}
SIDE = 224
PARTS = ("weight", "bias")
HEAD_WIDTH = 64  # of an attention head in every ViT of the original paper; a state dict does not contain it
LAYOUT = "a Vision Transformer in the layout of timm's vit_large_patch16_224"


def unlearncanvas_vit(weights: Path | None = None) -> Classifier:
    """Return the judge of 51 styles (photographs among them) and 20 objects; as in the benchmark it never abstains.

    Args:
        weights: folder with `style.safetensors` (or .pth) and `object.safetensors` (or .pth).

    Raises:
        ModelError: a file is missing or belongs to another architecture.
    """
    heads, tensors = {}, dict[str, Tensor]()
    for (attribute, labels), path in zip(LABELS.items(), find_files(NAME, weights, list(FILES.values())), strict=True):
        state = read_state(path)
        check_head(
            len(tensor_named(state, "head.weight", path, LAYOUT)), labels, path, f"the {attribute} head of {NAME}"
        )
        heads[attribute] = (network(state, path), labels)
        tensors |= {f"{attribute} {key}": tensor for key, tensor in state.items()}
    name = told_apart(NAME, tensors, [label for labels in LABELS.values() for label in labels])
    return Classifier(name, heads, resized_square(SIDE, (0.5,) * 3, (0.5,) * 3))


def network(state: dict[str, Tensor], path: Path) -> Network:
    """Build a ViT with the width and depth of a checkpoint: (B, 3, 224, 224) pixels to (B, labels) logits.

    Args:
        state: tensors under timm's names.
        path: of the checkpoint, for messages.

    Raises:
        ModelError: the checkpoint belongs to another architecture or image size.
    """
    from transformers import ViTForImageClassification

    config = config_of(state, path)
    rows = _rows(config)
    shapes = {
        f"{row}.{part}": shape if part == "weight" else shape[:1] for row, (_, shape) in rows.items() for part in PARTS
    }
    width, tokens = config.hidden_size, (SIDE // config.patch_size) ** 2 + 1
    check_shapes(state, {"cls_token": (1, 1, width), "pos_embed": (1, tokens, width), **shapes}, path, LAYOUT)
    renamed = {
        "vit.embeddings.cls_token": state["cls_token"],
        "vit.embeddings.position_embeddings": state["pos_embed"],
    }
    for row, (name, _) in rows.items():
        for part in PARTS:
            tensor = state[f"{row}.{part}"]
            if row.endswith("qkv"):
                thirds = zip(("query", "key", "value"), tensor.chunk(3), strict=True)
                renamed |= {f"{name}.{third}.{part}": piece for third, piece in thirds}
            else:
                renamed[f"{name}.{part}"] = tensor
    return load_classifier(ViTForImageClassification, config, renamed, path)


def config_of(state: dict[str, Tensor], path: Path) -> Any:
    """Return the ViTConfig that a checkpoint's shapes imply.

    Raises:
        ModelError: a tensor that determines a size is missing, or the width is no multiple of the head width.
    """
    from transformers import ViTConfig

    width = tensor_named(state, "cls_token", path, LAYOUT).shape[-1]
    if width % HEAD_WIDTH:
        raise ModelError(f"{path} is {width} wide; expected {LAYOUT}, whose width is a multiple of {HEAD_WIDTH}.")
    return ViTConfig(
        image_size=SIDE,
        patch_size=tensor_named(state, "patch_embed.proj.weight", path, LAYOUT).shape[-1],
        hidden_size=width,
        num_hidden_layers=len({m.group() for k in state if (m := re.match(r"blocks\.\d+\.", k))}),
        num_attention_heads=width // HEAD_WIDTH,
        intermediate_size=len(tensor_named(state, "blocks.0.mlp.fc1.weight", path, LAYOUT)),
        num_labels=len(tensor_named(state, "head.weight", path, LAYOUT)),
        layer_norm_eps=1e-6,
        hidden_act="gelu",  # the exact one
    )


def _rows(config: Any) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return, by timm's name of a layer, its name on the hub and the shape of its weight."""
    width, inner = config.hidden_size, config.intermediate_size
    block = {
        "norm1": ("layernorm_before", (width,)),
        "attn.qkv": ("attention.attention", (3 * width, width)),
        "attn.proj": ("attention.output.dense", (width, width)),
        "norm2": ("layernorm_after", (width,)),
        "mlp.fc1": ("intermediate.dense", (inner, width)),
        "mlp.fc2": ("output.dense", (width, inner)),
    }
    rows = {
        "patch_embed.proj": (
            "vit.embeddings.patch_embeddings.projection",
            (width, 3, config.patch_size, config.patch_size),
        ),
        "norm": ("vit.layernorm", (width,)),
        "head": ("classifier", (config.num_labels, width)),
    }
    for n in range(config.num_hidden_layers):
        rows |= {f"blocks.{n}.{row}": (f"vit.encoder.layer.{n}.{name}", shape) for row, (name, shape) in block.items()}
    return rows
