"""What every model family offers to the rest of the library, and the records it speaks in."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar
from weakref import WeakKeyDictionary

import torch
from PIL import Image
from torch import Tensor, nn

from excise.families.networks import values

Progress = Callable[[int, int], None]
Request = tuple[str, int]
"""A prompt and its seed."""
T = TypeVar("T")


@dataclass(frozen=True)
class TextStates:
    """Encoded prompts and where things stand in them.

    Attributes:
        states: (B, L, d), what the text-reading projections read.
        first, last: (B,) first and last token of the subject.
        end: (B,) the end token, or the last one where the model has none; everything after it is padding.
        pads: whether padding is read too (CLIP), or masked (Gemma).
        pooled: (B, p) what the projections of the whole prompt read, where a family has them.
    """

    states: Tensor
    first: Tensor
    last: Tensor
    end: Tensor
    pads: bool = True
    pooled: Tensor | None = None

    def context(self, index: int, before: int) -> Tensor:
        """(n, d): the first `before` states of prompt `index` and all after its subject that are read."""
        row = self._read(index)
        return torch.cat([row[:before], row[int(self.last[index]) + 1 :]])

    def span(self, index: int, tokens: str) -> Tensor:
        """(n, d): the states of prompt `index` that a token choice selects.

        `last`: the last subject token; `subject`: all of the subject; `from_last`: from there to the very end, end
        token and padding included; `all_but_start`: everything but the start token; `all`: everything. Padding that
        is masked is never part of it.
        """
        row, last = self._read(index), int(self.last[index])
        return {
            "last": row[last : last + 1],
            "subject": row[int(self.first[index]) : last + 1],
            "from_last": row[last:],
            "all_but_start": row[1:],
            "all": row,
        }[tokens]

    def _read(self, index: int) -> Tensor:
        """(n, d): the states of prompt `index` that are read at all."""
        return self.states[index] if self.pads else self.states[index, : int(self.end[index]) + 1]


@dataclass(frozen=True)
class Projection:
    """One linear map that reads text: its module path in the denoiser, its role and the module itself.

    Role "k" or "v" reads token states, "p" the pooled prompt (with its first columns; the others read no text).
    """

    path: str
    role: str
    module: nn.Linear


@dataclass(frozen=True)
class EncoderLayer:
    """One layer of a text encoder that adds to what the layers before it made, up to the states that are read.

    Attributes:
        encoder: its name in the pipeline. path: of the layer. map: path of its second MLP map, whose output is added
            as it is. Both begin with the name.
    """

    encoder: str
    path: str
    map: str


@dataclass(frozen=True)
class AttentionMap:
    """One linear map of an attention layer.

    Attributes:
        path: of the map in the denoiser.
        block: path of the block it belongs to, the unit in which training is confined.
        source: "cross" where the layer reads text, else "self".
        part: "q", "k", "v" or "out".
    """

    path: str
    block: str
    source: str
    part: str


@dataclass(frozen=True)
class Condition:
    """Prompts as the denoiser takes them: by the name of its argument, a tensor with one row a prompt."""

    inputs: Mapping[str, Tensor]

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))

    def __getitem__(self, rows: Sequence[int] | Tensor) -> Condition:
        """Some rows, in any order, repeated at will."""
        return Condition({name: t[rows] for name, t in self.inputs.items()})

    def to(self, device: torch.device, dtype: torch.dtype) -> Condition:
        """On a device, and what is of floats in a precision."""
        return Condition({n: t.to(device, dtype if t.is_floating_point() else t.dtype) for n, t in self.inputs.items()})


def join(parts: Sequence[Condition]) -> Condition:
    """Rows after rows."""
    return Condition({name: torch.cat([p.inputs[name] for p in parts]) for name in parts[0].inputs})


class Family(Protocol):
    """The adapter of one model family; a pipeline goes in, these operations come out."""

    name: str
    pipe: Any
    denoiser_name: str  # of the denoiser among the parts of the pipeline
    encoder_names: tuple[str, ...]  # of the text encoders, loaded or not

    @property
    def denoiser(self) -> nn.Module: ...

    @property
    def device(self) -> torch.device: ...

    @property
    def max_tokens(self) -> int: ...

    @property
    def text_width(self) -> int: ...

    @property
    def image_size(self) -> int: ...

    @property
    def text_encoder_weights(self) -> Mapping[str, Tensor]: ...

    @property
    def text_encoders(self) -> Mapping[str, nn.Module]: ...

    @property
    def tokenizers(self) -> Mapping[str, Any]: ...

    @property
    def latent_shape(self) -> tuple[int, int, int]: ...

    @property
    def prediction(self) -> str: ...

    def check_encoders(self) -> None: ...

    def check_trainable(self) -> None: ...

    def projections(self, roles: str = "kv") -> list[Projection]: ...

    def attention_maps(self) -> list[AttentionMap]: ...

    def encoder_layers(self) -> list[EncoderLayer]: ...

    def encode(self, texts: Sequence[str], subjects: Sequence[str | int | None] | None = None) -> TextStates: ...

    def condition(self, texts: Sequence[str]) -> Condition: ...

    def live_condition(self, texts: Sequence[str]) -> Condition: ...

    def unconditional(self) -> Condition: ...

    def predict(self, latents: Tensor, timestep: Tensor, condition: Condition) -> Tensor: ...

    def latents(self, images: Sequence[Image.Image]) -> Tensor: ...

    def decode(self, latents: Tensor) -> list[Image.Image]: ...

    def render(
        self, condition: Condition, unconditional: Condition, seeds: Sequence[int], *, steps: int, guidance: float
    ) -> list[Image.Image]: ...

    def batches(
        self, requests: Sequence[Sequence[Request]], *, steps: int, guidance: float
    ) -> Iterator[list[Image.Image]]: ...

    def sample(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        *,
        steps: int,
        guidance: float,
        batch: int,
        progress: Progress | None = None,
    ) -> list[Image.Image]: ...


def split(items: Sequence[T], size: int) -> list[Sequence[T]]:
    """Consecutive parts of `size`, the last one shorter.

    >>> split([1, 2, 3], 2)
    [[1, 2], [3]]
    """
    return [items[i : i + size] for i in range(0, len(items), size)]


def fingerprint(weights: Mapping[str, Tensor], dtype: torch.dtype = torch.float16) -> str:
    """SHA-256 of `weights` cast to `dtype`: one model has one print, whether it is loaded in single or in half."""
    digest = hashlib.sha256()
    for name, weight in sorted(weights.items()):
        digest.update(f"{name}{tuple(weight.shape)}".encode())
        digest.update(raw_bytes(weight.detach().to("cpu", dtype)))
    return digest.hexdigest()


def raw_bytes(tensor: Tensor) -> memoryview:
    """What is in a tensor on the CPU, byte by byte, row after row, however it lies in memory."""
    flat = tensor.flatten()  # 1x1 convolutions laid out channels last have strides that no view takes
    return flat.view(torch.uint8).numpy().data


def text_encoder_print(family: Family, weights: Mapping[str, Tensor] | None = None) -> str:
    """The fingerprint of a model's text encoder; computed again only when a weight of it was written to.

    Args:
        weights: instead of those it has now.
    """
    weights = family.text_encoder_weights if weights is None else weights
    # A few values of each tell of what writes past torch's count of versions, as fusing a LoRA does.
    mark = tuple((w.data_ptr(), w._version) for w in weights.values()), bytes(raw_bytes(values(weights, 4)))
    known = _prints.get(family.pipe)
    if known is None or known[0] != mark:
        known = _prints[family.pipe] = (mark, fingerprint(weights))
    return known[1]


_prints: WeakKeyDictionary[Any, tuple[Any, str]] = WeakKeyDictionary()
