"""Masks over latents: where in a picture a concept is, by the attention that its tokens get."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def concept_mask(
    maps: Sequence[Tensor], tokens: Sequence[Sequence[int]], size: tuple[int, int], threshold: float
) -> Tensor:
    """(B, 1, h, w), 1 where the tokens of a concept get attention, else 0 (as in Receler, arXiv 2311.17717).

    Each map is averaged over its heads, summed over the tokens, and scaled to `size`; their mean is compared with a
    share of its largest value.

    Args:
        maps: (B, heads, queries, keys) cross-attention maps of layers over square latents.
        tokens: for each of B prompts, the positions of the concept's tokens.
        size: (h, w) of the latents.
        threshold: share of the largest attention in the picture, between 0 and 1.
    """
    layers = []
    for attention in maps:
        chosen = torch.zeros(len(attention), attention.shape[-1], 1).to(attention)
        for row, positions in zip(chosen, tokens, strict=True):
            row[list(positions)] = 1
        weight = (attention.mean(dim=1) @ chosen).squeeze(-1)  # (B, queries)
        side = round(weight.shape[1] ** 0.5)
        grid = weight.unflatten(1, (1, side, side))
        layers.append(F.interpolate(grid, size, mode="bilinear", align_corners=False))
    mean = torch.stack(layers).mean(dim=0)
    return (mean >= threshold * mean.amax(dim=(1, 2, 3), keepdim=True)).to(mean)
