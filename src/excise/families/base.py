"""What every model family offers to the rest of the library, and the records it speaks in."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
from PIL import Image
from torch import Tensor, nn

from excise.errors import ConceptError

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
        end: (B,) the end token; everything after it is padding.
    """

    states: Tensor
    first: Tensor
    last: Tensor
    end: Tensor

    def span(self, index: int, tokens: str) -> Tensor:
        """(n, d): the states of prompt `index` that a token choice selects.

        `last`: the last subject token; `subject`: all of the subject; `from_last`: from there to the very end, end
        token and padding included; `all_but_start`: everything but the start token; `all`: everything.
        """
        row, last = self.states[index], int(self.last[index])
        return {
            "last": row[last : last + 1],
            "subject": row[int(self.first[index]) : last + 1],
            "from_last": row[last:],
            "all_but_start": row[1:],
            "all": row,
        }[tokens]


@dataclass(frozen=True)
class Projection:
    """One linear map that reads text: its module path in the denoiser, its role and the module itself."""

    path: str
    role: str  # "k" or "v"
    module: nn.Linear


class Family(Protocol):
    """The adapter of one model family; a pipeline goes in, these operations come out."""

    name: str
    pipe: Any

    @property
    def denoiser(self) -> nn.Module: ...

    @property
    def max_tokens(self) -> int: ...

    @property
    def image_size(self) -> int: ...

    @property
    def text_encoder_weights(self) -> Mapping[str, Tensor]: ...

    def projections(self, roles: str = "kv") -> list[Projection]: ...

    def encode(self, texts: Sequence[str], subjects: Sequence[str | int | None] | None = None) -> TextStates: ...

    def predict_noise(self, latents: Tensor, timestep: Tensor, states: Tensor) -> Tensor: ...

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
        raw = weight.detach().to("cpu", dtype).contiguous()
        digest.update(raw.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def find_subject(ids: list[int], subject: list[int], text: str, name: str) -> tuple[int, int]:
    """First and last position of the last occurrence of the `subject` tokens in `ids`.

    Raises:
        ConceptError: it does not occur.
    """
    for start in range(len(ids) - len(subject), -1, -1):
        if ids[start : start + len(subject)] == subject:
            return start, start + len(subject) - 1
    raise ConceptError(f"'{name}' does not stand as words of its own in the prompt '{text}'; put spaces around it.")
