"""Attention maps of chosen layers, computed again from their queries and keys: fused kernels return none."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0, JointAttnProcessor2_0
from diffusers.models.embeddings import apply_rotary_emb
from diffusers.models.transformers.sana_transformer import SanaAttnProcessor2_0
from diffusers.models.transformers.transformer_flux import FluxAttnProcessor
from torch import Tensor

from excise.errors import ModelError
from excise.families.base import Family

PLAIN = (AttnProcessor, AttnProcessor2_0, SanaAttnProcessor2_0)
JOINT = (FluxAttnProcessor, JointAttnProcessor2_0)


class Capture:
    """The maps of the latest pass, by layer: (B, heads, queries, keys), with gradients; every row sums to one.

    They are computed when they are asked for, so that gradient checkpointing recomputes nothing but the pass.
    """

    def __init__(self, layers: Sequence[str]) -> None:
        self._layers, self._maps = list(layers), dict[str, Callable[[], Tensor]]()

    def put(self, path: str, probabilities: Callable[[], Tensor]) -> None:
        """Keep how the map of a layer is computed."""
        self._maps[path] = probabilities

    @property
    def maps(self) -> dict[str, Tensor]:
        """The maps, in the order of the layers.

        Raises:
            ModelError: a layer was not run, so its map is missing.
        """
        if missing := [path for path in self._layers if path not in self._maps]:
            raise ModelError(f"no attention map was captured of '{missing[0]}'; run the denoiser inside the block.")
        return {path: self._maps[path]() for path in self._layers}


@contextmanager
def captured(family: Family, layers: Sequence[str]) -> Iterator[Capture]:
    """Capture softmax(q k^T / sqrt(d)) of attention layers of the denoiser in every pass inside the block.

    Args:
        layers: paths of the layers ("...attn2"), without the name of a map.

    Raises:
        ModelError: a layer is no plain softmax attention (linear, joint, or with the queries of each head normed).
    """
    capture = Capture(layers)
    with ExitStack() as stack:
        for path in layers:
            layer: Any = family.module(path)
            _check(path, layer)
            for hook in _hooks(path, layer, capture):
                stack.callback(hook.remove)
        yield capture


def reading_layers(family: Family) -> list[str]:
    """The layers of cross-attention, by path without the name of a map.

    Raises:
        ModelError: the family has none.
    """
    return list(dict.fromkeys(m.path.rpartition(".to_")[0] for m in family.maps("cross_kv")))


class JointCapture:
    """How the picture read the text in the latest pass, by layer: (B, heads, N, L), with gradients.

    The maps are computed when they are asked for, so that gradient checkpointing recomputes nothing but the pass.
    """

    def __init__(self, layers: Mapping[str, Any]) -> None:
        self._layers, self._seen = layers, dict[str, dict[str, Any]]()

    def put(self, path: str, seen: dict[str, Any]) -> None:
        """Keep what the pass of a layer has recorded."""
        self._seen[path] = seen

    @property
    def maps(self) -> dict[str, Tensor]:
        """The maps, in the order of the layers; a row sums to the share of the picture's attention that text gets.

        Raises:
            ModelError: a layer was not run, so its map is missing.
        """
        if missing := [path for path in self._layers if path not in self._seen]:
            raise ModelError(f"no attention map was captured of '{missing[0]}'; run the denoiser inside the block.")
        return {path: _text_columns(layer, self._seen[path]) for path, layer in self._layers.items()}


@contextmanager
def captured_joint(family: Family, layers: Sequence[str]) -> Iterator[JointCapture]:
    """Capture the picture's rows and the text's columns of the maps of joint attention in every pass inside the block.

    Args:
        layers: paths of the layers ("transformer_blocks.0.attn"), without the name of a map.

    Raises:
        ModelError: a layer is no joint softmax attention of the kind that FLUX.1 and Stable Diffusion 3 have.
    """
    modules: dict[str, Any] = {path: family.module(path) for path in layers}
    capture = JointCapture(modules)
    with ExitStack() as stack:
        for path, layer in modules.items():
            if type(getattr(layer, "processor", None)) not in JOINT or layer._modules.get("add_k_proj") is None:
                raise ModelError(f"'{path}' is no joint softmax attention; its maps cannot be computed from q and k.")
            for hook in _joint_hooks(path, layer, capture):
                stack.callback(hook.remove)
        yield capture


def _joint_hooks(path: str, layer: Any, capture: JointCapture) -> list[Any]:
    """The hooks of one layer: they record queries, keys, the rotation of positions and the mask."""
    seen: dict[str, Any] = {}

    def before(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        seen.update(rotation=kwargs.get("image_rotary_emb"), mask=kwargs.get("attention_mask"))

    return [
        layer.register_forward_pre_hook(before, with_kwargs=True),
        layer.to_q.register_forward_hook(lambda m, a, out: seen.update(q=out)),
        layer.to_k.register_forward_hook(lambda m, a, out: seen.update(k=out)),
        layer.add_k_proj.register_forward_hook(lambda m, a, out: seen.update(text_k=out)),
        layer.register_forward_hook(lambda m, a, out: capture.put(path, dict(seen))),
    ]


def _text_columns(layer: Any, seen: Mapping[str, Any]) -> Tensor:
    """softmax(q [k_text, k]^T / sqrt(d)) of the picture's queries q, the columns of the text: (B, heads, N, L)."""

    def heads(rows: Tensor, norm: Any) -> Tensor:
        parts = rows.unflatten(-1, (layer.heads, -1))
        normed: Tensor = parts if norm is None else norm(parts)
        return normed

    text, rotation, mask = seen["text_k"].shape[1], seen["rotation"], seen["mask"]
    q, k = heads(seen["q"], layer.norm_q), heads(seen["k"], layer.norm_k)
    k = torch.cat([heads(seen["text_k"], layer.norm_added_k), k], dim=1)
    if rotation is not None:
        k = apply_rotary_emb(k, rotation, sequence_dim=1)
        q = apply_rotary_emb(q, tuple(part[text:] for part in rotation), sequence_dim=1)
    scores = torch.einsum("bqhd,bkhd->bhqk", q, k) / q.shape[-1] ** 0.5
    if mask is not None:
        rows = mask[..., -q.shape[1] :, :] if mask.shape[-2] > 1 else mask
        scores = scores.masked_fill(~rows, -torch.inf) if rows.dtype == torch.bool else scores + rows
    return scores.softmax(dim=-1, dtype=torch.float32)[..., :text]


def _hooks(path: str, layer: Any, capture: Capture) -> list[Any]:
    """The hooks of one layer: they record its queries, keys and mask."""
    seen: dict[str, Any] = {}

    def before(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        seen["mask"] = kwargs.get("attention_mask")

    def after(module: Any, args: Any, output: Any) -> None:
        capture.put(path, partial(_probabilities, layer, seen.pop("to_q"), seen.pop("to_k"), seen.pop("mask")))

    return [
        layer.register_forward_pre_hook(before, with_kwargs=True),
        layer.to_q.register_forward_hook(lambda m, a, out: seen.update(to_q=out)),
        layer.to_k.register_forward_hook(lambda m, a, out: seen.update(to_k=out)),
        layer.register_forward_hook(after),
    ]


def _probabilities(layer: Any, q: Tensor, k: Tensor, mask: Tensor | None) -> Tensor:
    """softmax(q k^T / sqrt(d)) of a layer: (B, heads, queries, keys)."""
    if layer.norm_q is not None:  # over all heads together, as SANA-Sprint has it
        q = layer.norm_q(q)
    if layer.norm_k is not None:
        k = layer.norm_k(k)
    if mask is not None:
        mask = layer.prepare_attention_mask(mask, k.shape[1], len(q))
    scores: Tensor = layer.get_attention_scores(layer.head_to_batch_dim(q), layer.head_to_batch_dim(k), mask)
    return scores.unflatten(0, (len(q), layer.heads))


def _check(path: str, layer: Any) -> None:
    plain = isinstance(layer, Attention) and type(layer.processor) in PLAIN
    normed = plain and (layer.norm_q is not None or layer.norm_k is not None)
    if not plain or (normed and type(layer.processor) is not SanaAttnProcessor2_0):
        raise ModelError(f"'{path}' is no plain softmax attention; its maps cannot be computed from q and k.")
