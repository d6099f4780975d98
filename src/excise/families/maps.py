"""Maps of a model that methods edit or train, and what they read."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class Projection:
    """A linear map that reads text.

    Attributes:
        path: of the module in the denoiser.
        role: "k" or "v" reads token states for keys or values of attention; "e" embeds token states before the first
            block, for all keys and values; "p" reads the pooled prompt with its first columns (the others read no
            text).
        module: the map.
        rows: the rows of its weight that have this role, where a fused map has others too; None for all.
        normed: whether a norm follows in which the length of what it gives is lost, as behind most keys.
    """

    path: str
    role: str
    module: nn.Linear
    rows: slice | None = None
    normed: bool = False


@dataclass(frozen=True)
class MapInput:
    """The input of one map for B prompts.

    Attributes:
        rows: (B, L, d) one row a token, or (B, d) one row a prompt.
        read: (B, L) True where the denoiser reads the row; None for one row a prompt.
        picture: (B, N, d) the rows of the picture, where the map reads those too.
    """

    rows: Tensor
    read: Tensor | None
    picture: Tensor | None = None


@dataclass(frozen=True)
class EncoderLayer:
    """One layer of a text encoder whose MLP output is added to the residual stream without normalisation.

    Attributes:
        encoder: name of the encoder in the pipeline.
        path: of the layer; it begins with the encoder's name.
        map: path of the layer's second MLP map, whose output is added.
    """

    encoder: str
    path: str
    map: str


@dataclass(frozen=True)
class WeightMap:
    """One weight that training may change.

    Attributes:
        path: of the module in the denoiser; in a text encoder it begins with the encoder's name in the pipeline.
        block: path of the block around it, the unit in which training is confined.
        source: what the layer reads: "cross" (attention from the picture to the text), "self" (the picture alone),
            "joint" (text and picture together, each by its own maps), "shared" (the same by the same maps), "refiner"
            (the text alone, in the denoiser), "door" (text enters the denoiser) or "text" (a layer of a text encoder).
        part: in attention "q", "k", "v" or "out" ("qkv" of a map that holds the first three), on the text's side of a
            joint layer "add_q", "add_k", "add_v" or "add_out"; of a door the role of its projection; in a text
            encoder "attention", "mlp", "embedding" or "other".
    """

    path: str
    block: str
    source: str
    part: str
