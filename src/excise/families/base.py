"""The contract of a model family, and the records that its members take and return."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import torch
from PIL import Image
from torch import Tensor, nn

from excise.families.conditions import Condition
from excise.families.maps import EncoderLayer, MapInput, Projection, WeightMap
from excise.families.noising import Noising
from excise.families.text_known import KnownStates
from excise.families.text_states import TextStates, Until

Progress = Callable[[float, int], None]
"""Called with the number of pictures that are done, with the part of those at hand, and the number of all."""
Watch = Callable[[float], None]
"""Called with the share of a batch's steps that are done."""
Request = tuple[str, int]
"""A prompt and its seed."""
Size = tuple[int, int]
"""Width and height in pixels."""
T = TypeVar("T")


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
        pads_text: whether prompts of different lengths may share a batch. False where padding changes the picture;
            such prompts are then drawn in groups of one length.
    """

    name: str
    provides: frozenset[str]
    pipe: Any
    denoiser_name: str
    encoder_names: tuple[str, ...]
    pads_text: bool = True

    # Parts of the model

    def complete(self) -> None:  # noqa: B027 - a family that is loaded whole has nothing to do
        """Read every weight that is still in its file alone, where the model was loaded for its text alone.

        What draws or predicts does so itself.

        Raises:
            ModelError: a file cannot be read any more.
        """

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
        """The parameter at a path as `module` takes it: by its name, or the weight of a module; raises as `module`."""

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
    def noising(self) -> Noising:
        """How latents of the model's own picture size are noised.

        Raises:
            ModelError: the scheduler predicts something else, or noises in another way (EDM).
        """

    @property
    def prediction(self) -> str:
        """What the denoiser predicts: "epsilon", "v_prediction" or "flow"; raises as `noising`."""
        return self.noising.kind

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

    @property
    def guides(self) -> bool:
        """Whether the scale of classifier-free guidance changes pictures; not in some distilled models."""
        return True

    # Maps of the model

    @abstractmethod
    def projections(self, roles: str = "kv") -> list[Projection]:
        """The linear maps that read the prompt alone, by role (see `Projection`), in the order of the denoiser.

        Where keys and values read the picture too, the maps that embed token states stand for both.

        Raises:
            ModelError: keys or values are requested and there are none.
        """

    @abstractmethod
    def inputs(self, paths: Sequence[str], texts: Sequence[str]) -> dict[str, MapInput]:
        """What chosen maps of the denoiser read for B prompts, taken from one prediction on latents of zeros.

        Exact for maps whose input depends on the prompt alone, not on latents and timestep: the projections of every
        role, and whatever stands before the first block. Rows are on the denoiser's device, in its precision.

        Raises:
            ModelError: a map is not called in a prediction.
        """

    @abstractmethod
    def captured(
        self, paths: Sequence[str], texts: Sequence[str], moments: int, seed: int
    ) -> list[dict[str, MapInput]]:
        """What chosen maps read for B prompts at some moments of drawing them, evenly spread from the noisiest on.

        Every prompt is drawn from the same noise, without guidance. For maps that read the picture too; raises as
        `inputs`.
        """

    @abstractmethod
    def text_maps(self, order: str, params: str = "kv") -> list[Projection]:
        """The keys and values that read text, by what else they depend on, in the order of the denoiser.

        Args:
            order: "static" (`projections`), "refined" (text alone, but mixed with the rest of the prompt), "joint"
                (text mixed with the picture) or "shared" (maps that read the picture too).
            params: "k", "v" or both.

        Raises:
            ModelError: the family has none of this order; the message names those that it has.
        """

    @abstractmethod
    def attention_maps(self) -> list[WeightMap]:
        """Every linear map of every attention layer, in the order of the denoiser."""

    def door_maps(self) -> list[WeightMap]:
        """The maps through which text enters a transformer; none where cross-attention reads it in every block."""
        return []

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
    def encoder_spans(
        self, encoder: str, texts: Sequence[str], subjects: Sequence[str | int | None]
    ) -> tuple[Tensor, Tensor]:
        """Where subjects stand among the tokens of one text encoder.

        Args:
            encoder: its name in the pipeline.
            texts, subjects: as `encode` takes them.

        Returns:
            (B,) the last token of each subject, and (B, L) True where the denoiser is given what the encoder makes of a
            token.

        Raises:
            ConceptError: a prompt does not fit, or does not contain its subject.
        """

    @abstractmethod
    def encode(
        self,
        texts: Sequence[str],
        subjects: Sequence[str | int | None] | None = None,
        until: Sequence[Until] | None = None,
        known: KnownStates | None = None,
    ) -> TextStates:
        """Encode prompts, what they have in common once, and find their subjects.

        Args:
            texts: B prompts.
            subjects: for each prompt, the words to find. None means the whole prompt; a number n means an empty
                subject after the first n characters, which stands at the token before it (at the very front, at the
                start token).
            until: how far each prompt is encoded at least; None means through all that the denoiser reads.
            known: states of earlier calls, which a family may use and add to.

        Returns:
            States in the dtype of the text encoder, with token positions.

        Raises:
            ConceptError: a prompt does not fit, or does not contain its subject.
        """

    def last_token(self, text: str, subject: str) -> int:
        """Position of a subject's last token among those of a prompt that the denoiser reads; raises as `encode`."""
        return int(self.encode([text], [subject]).last[0])

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
        self,
        condition: Condition,
        unconditional: Condition,
        seeds: Sequence[int],
        *,
        steps: int,
        guidance: float,
        watch: Watch | None = None,
        size: Size | None = None,
    ) -> list[Image.Image]:
        """Draw one batch with the pipeline's own sampler, from conditions that need not come from words.

        Args:
            condition: B rows.
            unconditional: one row, for the unconditional half of guidance.
            seeds: B; each picture has its own generator on the CPU, so it does not depend on its batch.
            steps: of the sampler.
            guidance: scale of classifier-free guidance.
            watch: receives progress after every step, where the pipeline tells of its steps.
            size: of the pictures; None for the model's own.

        Raises:
            ModelError: the model cannot draw from words alone.
        """

    @abstractmethod
    def batches(
        self,
        requests: Sequence[Sequence[Request]],
        *,
        steps: int,
        guidance: float,
        watch: Watch | None = None,
        negative: str = "",
        size: Size | None = None,
    ) -> Iterator[list[Image.Image]]:
        """Draw batch after batch of (prompt, seed); every distinct prompt is encoded once for all batches.

        `watch` receives the share of the batch at hand, and `size` is that of the pictures, as `render` takes them.
        `negative` is what guidance leads away from.
        """

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
    """Consecutive parts of `size` items, the last one shorter.

    >>> split([1, 2, 3], 2)
    [[1, 2], [3]]
    """
    return [items[i : i + size] for i in range(0, len(items), size)]
