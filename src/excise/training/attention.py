"""Attention maps of chosen layers, computed again from their queries and keys: fused kernels return none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0
from torch import Tensor

from excise.errors import ModelError
from excise.families.base import Family


class Capture:
    """The maps of the latest pass, by layer: (B, heads, queries, keys), with gradients; every row sums to one."""

    def __init__(self, layers: Sequence[str]) -> None:
        self._layers, self._maps = list(layers), dict[str, Tensor]()

    def put(self, path: str, probabilities: Tensor) -> None:
        """Keep the map of a layer."""
        self._maps[path] = probabilities

    @property
    def maps(self) -> dict[str, Tensor]:
        """The maps, in the order of the layers.

        Raises:
            ModelError: a layer was not run, so its map is missing.
        """
        if missing := [path for path in self._layers if path not in self._maps]:
            raise ModelError(f"no attention map was captured of '{missing[0]}'; run the denoiser inside the block.")
        return {path: self._maps[path] for path in self._layers}


@contextmanager
def captured(family: Family, layers: Sequence[str]) -> Iterator[Capture]:
    """Capture softmax(q k^T / sqrt(d)) of attention layers of the denoiser in every pass inside the block.

    Args:
        layers: paths of the layers ("...attn2"), without the name of a map.

    Raises:
        ModelError: a layer is no plain softmax attention (linear, joint, or with normed queries).
    """
    capture = Capture(layers)
    with ExitStack() as stack:
        for path in layers:
            layer: Any = family.module(path)
            _check(path, layer)
            for hook in _hooks(path, layer, capture):
                stack.callback(hook.remove)
        yield capture


def _hooks(path: str, layer: Any, capture: Capture) -> list[Any]:
    """The hooks of one layer: they record its queries, keys and mask, and compute the map after its pass."""
    seen: dict[str, Any] = {}

    def before(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        seen["mask"] = kwargs.get("attention_mask")

    def after(module: Any, args: Any, output: Any) -> None:
        q, k, mask = seen.pop("to_q"), seen.pop("to_k"), seen.pop("mask")
        if mask is not None:
            mask = layer.prepare_attention_mask(mask, k.shape[1], len(q))
        scores = layer.get_attention_scores(layer.head_to_batch_dim(q), layer.head_to_batch_dim(k), mask)
        capture.put(path, scores.unflatten(0, (len(q), layer.heads)))

    return [
        layer.register_forward_pre_hook(before, with_kwargs=True),
        layer.to_q.register_forward_hook(lambda m, a, out: seen.update(to_q=out)),
        layer.to_k.register_forward_hook(lambda m, a, out: seen.update(to_k=out)),
        layer.register_forward_hook(after),
    ]


def _check(path: str, layer: Any) -> None:
    plain = isinstance(layer, Attention) and type(layer.processor) in (AttnProcessor, AttnProcessor2_0)
    if not plain or layer.norm_q is not None or layer.norm_k is not None:
        raise ModelError(f"'{path}' is no plain softmax attention; its maps cannot be computed from q and k.")
