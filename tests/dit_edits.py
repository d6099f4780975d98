"""Edits of tiny diffusion transformers that reach every kind of map, and what to compare of pipelines with them."""

from __future__ import annotations

import torch
from dits import CASES

from excise import Edit, erase
from excise.edits.deltas import LowRank
from excise.edits.originals import original_weights
from excise.families import family_of

# Of each family maps outside the blocks, and some of those that the original checkpoint stacks with others.
MAPS = {
    "flux": [
        "context_embedder",
        "time_text_embed.text_embedder.linear_1",
        "transformer_blocks.0.attn.add_k_proj",
        "transformer_blocks.0.attn.add_v_proj",
        "transformer_blocks.1.attn.to_q",
        "transformer_blocks.1.attn.to_out.0",
        "transformer_blocks.1.ff_context.net.2",
        "single_transformer_blocks.0.attn.to_v",
        "single_transformer_blocks.1.proj_mlp",
        "norm_out.linear",
    ],
    "zimage": [
        "cap_embedder.1",
        "context_refiner.0.attention.to_k",
        "context_refiner.0.attention.to_v",
        "context_refiner.1.attention.to_out.0",
        "context_refiner.1.feed_forward.w2",
        "layers.0.attention.to_k",
        "layers.1.attention.to_q",
        "layers.1.attention.to_v",
    ],
}
DOUBLE = [
    "transformer_blocks.0.attn.add_k_proj",
    "transformer_blocks.0.attn.add_v_proj",
    "transformer_blocks.1.ff.net.2",
]


def built(name: str):
    """The tiny pipeline of a case, always the same."""
    return CASES[name].build()


def uce(pipe) -> Edit:
    return erase(pipe, ["cat"], method="uce", preserve=["dog"], vocabulary=None)


def changes(pipe, paths: list[str], size: float = 0.3) -> dict[str, LowRank]:
    """A change of each map, of ranks 1, 2 and 3 in turn."""
    generator = torch.Generator().manual_seed(3)
    deltas = {}
    for number, (path, weight) in enumerate(original_weights(family_of(pipe), paths).items()):
        rank, (rows, columns) = number % 3 + 1, weight.shape
        b, a = (torch.randn(shape, generator=generator) for shape in ((rows, rank), (rank, columns)))
        deltas[path] = LowRank(size * b / rank**0.5, a / columns**0.5)
    assert list(deltas) == paths
    return deltas


def wide(pipe, paths: list[str] | None = None) -> Edit:
    """An edit of many kinds of maps, under the record of a closed form."""
    return Edit(uce(pipe).record, (), changes(pipe, paths or MAPS[family_of(pipe).name]))


def prediction(pipe) -> torch.Tensor:
    family = family_of(pipe)
    latents = torch.randn(1, *family.latent_shape, generator=torch.Generator().manual_seed(0))
    return family.predict(latents, torch.tensor([500.0]), family.condition(["a photo of a cat"]))


def assert_same_deltas(one: Edit, other: Edit, pipe, tolerance: float = 1e-5) -> None:
    assert sorted(one.paths) == sorted(other.paths)
    for path, weight in original_weights(family_of(pipe), one.paths).items():
        expected = other.delta(path, weight.detach()).double()
        assert float((one.delta(path, weight.detach()).double() - expected).norm() / expected.norm()) < tolerance, path
