"""What every model family offers to the rest of the library, and the records it speaks in."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar
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
class WeightMap:
    """One weight that training may change.

    Attributes:
        path: of the module in the denoiser; in a text encoder it begins with the encoder's name in the pipeline.
        block: path of the block around it, the unit in which training is confined.
        source: what the layer reads: "cross" (attention from the picture to the text), "self" (the picture alone),
            "joint" (text and picture together) or "text" (a layer of a text encoder).
        part: in attention "q", "k", "v" or "out", on the text's side of a joint layer "add_q", "add_k", "add_v" or
            "add_out"; in a text encoder "attention", "mlp", "embedding" or "other".
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


class Family(ABC):
    """The adapter of one model family: it holds a pipeline, and offers all models to the library in one way.

    A new family derives from `PipelineFamily` (pipeline.py), which implements most members for diffusers pipelines.
    No member changes the pipeline.

    Attributes:
        name: of the family in the registry.
        provides: capabilities of the family (capabilities.py), equal to those in its registry record.
        pipe: the diffusers pipeline.
        denoiser_name: attribute of the pipeline that holds the denoiser.
        encoder_names: attributes of the pipeline that hold text encoders, whether loaded or not.
    """

    name: str
    provides: frozenset[str]
    pipe: Any
    denoiser_name: str
    encoder_names: tuple[str, ...]

    # Parts of the model

    @property
    @abstractmethod
    def denoiser(self) -> nn.Module:
        """The UNet or transformer, without wrappers of torch.compile or peft."""

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """The device on which the denoiser computes."""

    @property
    @abstractmethod
    def text_encoders(self) -> Mapping[str, nn.Module]:
        """The text encoders that are loaded, by their names in the pipeline."""

    @property
    @abstractmethod
    def tokenizers(self) -> Mapping[str, Any]:
        """The tokenizer of each loaded text encoder, by the encoder's name."""

    @property
    @abstractmethod
    def text_encoder_weights(self) -> Mapping[str, Tensor]:
        """Every weight that text states depend on, by name."""

    @abstractmethod
    def module(self, path: str) -> nn.Module:
        """The module at a path of the denoiser, or of a text encoder where the path begins with its name.

        Raises:
            AttributeError: there is none.
            ModelError: the path is of a text encoder that is not loaded.
        """

    @abstractmethod
    def parameter(self, path: str) -> nn.Parameter:
        """The parameter at a path as `module` takes it: a parameter by name, or the weight of a module.

        Raises:
            AttributeError: there is none.
            ModelError: the path is of a text encoder that is not loaded.
        """

    # What the model takes and gives

    @property
    @abstractmethod
    def max_tokens(self) -> int:
        """Number of tokens that fit into a prompt, special tokens included."""

    @property
    @abstractmethod
    def text_width(self) -> int:
        """Width of the text states that keys and values (or the token embedder) read."""

    @property
    @abstractmethod
    def image_size(self) -> int:
        """Side of the square pictures that the model draws, in pixels."""

    @property
    @abstractmethod
    def latent_shape(self) -> tuple[int, int, int]:
        """(c, h, w) of one picture's latents, as `predict` takes them."""

    @property
    @abstractmethod
    def prediction(self) -> str:
        """What the denoiser predicts: "epsilon", "v_prediction" or "flow".

        Raises:
            ModelError: none of these.
        """

    # Checks

    @abstractmethod
    def check_encoders(self) -> None:
        """Refuse a pipeline that cannot encode text.

        Raises:
            ModelError: it was loaded without a text encoder.
        """

    @abstractmethod
    def check_trainable(self) -> None:
        """Refuse a pipeline that no trained method can work on.

        Raises:
            ModelError: it cannot draw from words alone, its scheduler noises in another way, or its layers are
                wrapped or fused.
        """

    # Maps of the model

    @abstractmethod
    def projections(self, roles: str = "kv") -> list[Projection]:
        """The linear maps that read text, by role (see `Projection`), in the order of the denoiser.

        Raises:
            ModelError: keys or values are requested and there are none.
        """

    @abstractmethod
    def attention_maps(self) -> list[WeightMap]:
        """Every linear map of every attention layer, in the order of the denoiser."""

    @abstractmethod
    def maps(self, role: str) -> list[WeightMap]:
        """Weights by role (roles.py), those of the denoiser before those of the text encoders.

        Raises:
            UnknownNameError: there is no such role.
            ModelError: the family has no weight of that role; the message names the roles that it has.
        """

    @abstractmethod
    def encoder_layers(self) -> list[EncoderLayer]:
        """Layers of the text encoders that closed forms can edit, first to last; none where MLP outputs are normed."""

    # Text

    @abstractmethod
    def encode(self, texts: Sequence[str], subjects: Sequence[str | int | None] | None = None) -> TextStates:
        """Encode prompts in one batch and find their subjects.

        Args:
            texts: B prompts.
            subjects: for each prompt, the words to find. None means the whole prompt; a number n means an empty
                subject after the first n characters, which stands at the token before it (at the very front, at the
                start token).

        Returns:
            States (B, L, d) in the dtype of the text encoder, with token positions.

        Raises:
            ConceptError: a prompt does not fit, or does not contain its subject.
        """

    @abstractmethod
    def condition(self, texts: Sequence[str]) -> Condition:
        """Exactly what the pipeline hands to its denoiser for each of B prompts, without gradients."""

    @abstractmethod
    def live_condition(self, texts: Sequence[str]) -> Condition:
        """As `condition`, in one batch, and with gradients to the text encoders."""

    @abstractmethod
    def unconditional(self) -> Condition:
        """The one row of the unconditional half of classifier-free guidance."""

    # Pictures

    @abstractmethod
    def predict(self, latents: Tensor, timestep: Tensor, condition: Condition) -> Tensor:
        """The denoiser's output for `latents` (B, c, h, w) at `timestep` (B,), in the parameterisation `prediction`.

        Timesteps are in the scheduler's units (0 to 1000). Inputs may be on any device and of any precision; the
        output (B, c, h, w) is in single precision on the denoiser's device. Gradients flow.
        """

    @abstractmethod
    def latents(self, images: Sequence[Image.Image]) -> Tensor:
        """(n, c, h, w) latents of pictures as `predict` takes them, on the CPU in single precision.

        Where the autoencoder gives a distribution, its mean.
        """

    @abstractmethod
    def decode(self, latents: Tensor) -> list[Image.Image]:
        """Pictures of latents (n, c, h, w); the inverse of `latents`."""

    @abstractmethod
    def render(
        self, condition: Condition, unconditional: Condition, seeds: Sequence[int], *, steps: int, guidance: float
    ) -> list[Image.Image]:
        """Draw one batch with the pipeline's own sampler, from conditions that need not come from words.

        Args:
            condition: B rows.
            unconditional: one row, for the unconditional half of guidance.
            seeds: B; each picture has its own generator on the CPU, so it does not depend on its batch.
            steps: of the sampler.
            guidance: scale of classifier-free guidance.

        Raises:
            ModelError: the model cannot draw from words alone.
        """

    @abstractmethod
    def batches(
        self, requests: Sequence[Sequence[Request]], *, steps: int, guidance: float
    ) -> Iterator[list[Image.Image]]:
        """Draw batch after batch of (prompt, seed); every distinct prompt is encoded once for all batches."""

    @abstractmethod
    def sample(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        *,
        steps: int,
        guidance: float,
        batch: int,
        progress: Progress | None = None,
    ) -> list[Image.Image]:
        """One picture a prompt, all in memory; picture i has the seed `seeds[i]`."""


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
