"""Adapter of diffusers pipelines: what all families share. Derive from it to add a family."""

from __future__ import annotations

import inspect
import warnings
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from excise.errors import ConceptError, ExciseWarning, ModelError
from excise.families.base import Progress, Request, Size, Watch, split
from excise.families.conditions import Condition, grouped, join
from excise.families.maps import EncoderLayer
from excise.families.networks import check_trainable, computes_in, module_in, parameters
from excise.families.noising import Noising, noising
from excise.families.partial import complete
from excise.families.progress import encoded, part_of, step_callback
from excise.families.reading import ReadingFamily
from excise.families.streaming import read_whole, stream
from excise.families.subjects import subject_spans
from excise.families.text_known import KnownStates
from excise.families.text_states import TextStates, Until
from excise.families.text_tree import Tokens, encode_tokens, takes_masks

ENCODE_BATCH = 256  # prompts encoded at once
IMAGE_PIXELS = 32 * 256**2  # pixels that pass through an autoencoder at once


class PipelineFamily(ReadingFamily):
    """Adapter of a text-to-image pipeline of diffusers.

    A family must define `name`, `provides`, `draws_with`, `max_tokens`, `text_width`, `unconditional`,
    `_condition`, `_predict` and `_call`, and `_tokens` and `_token_states` (or, where
    its text encoder is not causal, `encode`). It overrides what its pipeline does otherwise: the sizes
    (`image_size`, `latent_shape`, `_picture_tokens`), what attention reads (`_reads`), how guidance and steps are
    passed (`_guidance`, `_steps`), what the autoencoder takes and gives (`_vae_channels`, `_to_raw`, `_from_raw`,
    `_scaled`, `_unscaled`), a shift of the noise schedule that the pipeline sets itself (`_mu`).

    Attributes:
        draws_with: the class in diffusers that draws from words alone with the parts of any pipeline of the family.
        text_modules: paths of the denoiser's modules that text passes on its way to the first projection; with the text
            encoders, all that is loaded for work that reads text alone.
        encode_batch: number of prompts that the pipeline encodes at once.
        outlines: whether the adapter works on an outline too (outline.py), as far as nothing is drawn: it asks for
            configurations, names and shapes, and text passes no module before the projections.
    """

    draws_with: str
    text_modules: tuple[str, ...] = ()
    encode_batch: int = ENCODE_BATCH
    outlines: bool = False

    def complete_text(self) -> None:
        """Read the text encoders, where the model was loaded without them; what draws or trains does so itself.

        One that does not fit into memory is read layer by layer whenever it runs.
        """
        for encoder in self.text_encoders.values():
            read_whole(encoder)

    def _check_encodes(self) -> None:
        """Refuse a pipeline that cannot encode text; text encoders that are not in memory will be read as they run.

        Raises:
            ModelError: it was loaded without a text encoder.
        """
        self.check_encoders()
        for encoder in self.text_encoders.values():
            stream(encoder)

    def complete(self) -> None:
        self.complete_text()
        for name, part in self.pipe.components.items():
            if isinstance(part, nn.Module) and name not in self.encoder_names:
                complete(part)

    @property
    def image_size(self) -> int:
        return int(self.denoiser.config.sample_size * self.pipe.vae_scale_factor)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        config = self.denoiser.config
        return int(config.in_channels), int(config.sample_size), int(config.sample_size)

    @property
    def _picture_tokens(self) -> int:
        """Number of picture tokens that a transformer attends over, for latents of `latent_shape`."""
        _, height, width = self.latent_shape
        patch = int(self.denoiser.config.get("patch_size") or 1)
        return height * width // patch**2

    @property
    def text_encoder_weights(self) -> dict[str, Tensor]:
        parts = {**self.text_encoders, **{path: module_in(self.denoiser, path) for path in self.text_modules}}
        return {name: weight for path, part in parts.items() for name, weight in parameters(part, f"{path}.").items()}

    def check_trainable(self) -> None:
        self.complete()
        self._check_draws()
        self.noising  # noqa: B018 - refuses schedulers that noise in another way
        check_trainable(self.denoiser)

    def encoder_layers(self) -> list[EncoderLayer]:
        return []

    def encoder_spans(
        self, encoder: str, texts: Sequence[str], subjects: Sequence[str | int | None]
    ) -> tuple[Tensor, Tensor]:
        tokens = self._tokens(texts, subjects)
        return tokens.last, tokens.read

    @property
    def noising(self) -> Noising:
        return noising(self.pipe.scheduler, self._picture_tokens, self._mu)

    @property
    def _mu(self) -> float | None:
        """The logarithm of a dynamic shift of the noise schedule; None where the scheduler's configuration tells it."""
        return None

    def predict(self, latents: Tensor, timestep: Tensor, condition: Condition) -> Tensor:
        self._check_draws()
        self.complete()
        device, dtype = self.device, computes_in(self.denoiser)
        inputs = condition.to(device, dtype)
        return self._predict(latents.to(device, dtype), timestep.to(device), inputs).float()

    @abstractmethod
    def _predict(self, latents: Tensor, timestep: Tensor, condition: Condition) -> Tensor:
        """`predict`, given inputs on the denoiser's device and in its precision."""

    @abstractmethod
    def _condition(self, texts: Sequence[str]) -> Condition:
        """Encode one batch of prompts, as `condition`; gradients may flow."""

    @abstractmethod
    def _call(self, condition: Condition, unconditional: Condition) -> dict[str, Any]:
        """Arguments with which the pipeline draws from B rows and B unconditional rows."""

    def _guidance(self, scale: float) -> dict[str, Any]:
        """Arguments with which the pipeline applies classifier-free guidance of a scale."""
        return {"guidance_scale": scale}

    @property
    def guides(self) -> bool:
        return self._guidance(2.0) != self._guidance(3.0)

    def _steps(self, steps: int) -> dict[str, Any]:
        """Arguments with which the pipeline takes a number of steps."""
        return {"num_inference_steps": steps}

    def live_condition(self, texts: Sequence[str]) -> Condition:
        self.check_encoders()
        self.complete_text()
        return self._condition(texts)

    @torch.no_grad()
    def condition(self, texts: Sequence[str]) -> Condition:
        self._check_encodes()
        parts = []
        for part in split(list(texts), self.encode_batch):
            parts.append(self._condition(part))
            encoded(min(len(parts) * self.encode_batch, len(texts)), len(texts))
        return join(parts)

    @torch.no_grad()
    def encode(
        self,
        texts: Sequence[str],
        subjects: Sequence[str | int | None] | None = None,
        until: Sequence[Until] | None = None,
        known: KnownStates | None = None,
    ) -> TextStates:
        self._check_encodes()
        tokens = self._tokens(texts, subjects)
        shares = all(takes_masks(encoder) for encoder in self.text_encoders.values())
        capacity = self._row if shares else 0
        return encode_tokens(tokens, until or ["all"] * len(texts), self._token_states, capacity, self.device, known)

    def last_token(self, text: str, subject: str) -> int:
        if type(self)._tokens is PipelineFamily._tokens:
            return super().last_token(text, subject)
        tokens = self._tokens([text], [subject])
        return int(tokens.shown(tokens.last)[0])

    def _tokens(self, texts: Sequence[str], subjects: Sequence[str | int | None] | None) -> Tokens:
        """The tokens of prompts, as the pipeline cuts them, and where their subjects stand; raises as `encode`."""
        raise NotImplementedError(f"{type(self).__name__} defines _tokens and _token_states, or encode.")

    def _token_states(self, ids: Tensor, positions: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """What projections of tokens read at each, and the pooled prompt that would end there: an `Encoder`."""
        raise NotImplementedError(f"{type(self).__name__} defines _tokens and _token_states, or encode.")

    def _check_length(self, texts: Sequence[str]) -> None:
        """Refuse prompts of which the model would read the beginning alone.

        Raises:
            ConceptError: the first such prompt, with its length and how much fits.
        """
        if type(self)._tokens is PipelineFamily._tokens:
            subject_spans(self._prompt_tokenizer, texts, None, self.max_tokens)
        else:
            self._tokens(texts, None)

    @property
    def _prompt_tokenizer(self) -> Any:
        """The tokenizer that tells how long a prompt is."""
        return self.pipe.tokenizer

    @property
    def _row(self) -> int:
        """Tokens that stand in one row of the text encoders' input."""
        return self.max_tokens

    @torch.no_grad()
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
        if not (distinct := list(dict.fromkeys(prompt for batch in requests for prompt, _ in batch))):
            return
        unconditional = self.condition([negative]) if negative else self.unconditional()
        draw = partial(self.render, unconditional=unconditional, steps=steps, guidance=guidance, size=size)
        try:
            self._check_length(distinct)
        except ConceptError as error:  # drawn all the same, as the stock pipeline does
            warnings.warn(str(error), ExciseWarning, stacklevel=2)
        # Where padding changes the picture, every prompt is encoded at its own length.
        whole = self.condition(distinct) if self.pads_text else None
        row = {prompt: i for i, prompt in enumerate(distinct)}
        alone = {} if self.pads_text else {prompt: self.condition([prompt]) for prompt in distinct}
        for batch in requests:
            seeds = [seed for _, seed in batch]
            if whole is not None:
                yield draw(whole[[row[prompt] for prompt, _ in batch]], seeds=seeds, watch=watch)
                continue
            conditions, images = [alone[prompt] for prompt, _ in batch], dict[int, Image.Image]()
            for group in grouped(conditions):
                drawn = draw(
                    join([conditions[i] for i in group]),
                    seeds=[seeds[i] for i in group],
                    watch=part_of(watch, len(images) / len(batch), len(group) / len(batch)),
                )
                images.update(zip(group, drawn, strict=True))
            yield [images[i] for i in range(len(batch))]

    @torch.no_grad()
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
        self._check_draws()
        self.complete()
        drawer = self._drawer()
        tells = watch is not None and "callback_on_step_end" in inspect.signature(drawer.__call__).parameters
        drawer.set_progress_bar_config(disable=True)
        sides = {} if size is None else {"width": size[0], "height": size[1]}
        images: list[Image.Image] = drawer(
            **{**self._call(condition, unconditional[[0] * len(condition)]), **self._guidance(guidance), **sides},
            generator=[torch.Generator("cpu").manual_seed(seed) for seed in seeds],
            **self._steps(steps),
            **({"callback_on_step_end": step_callback(watch, steps)} if watch is not None and tells else {}),
        ).images
        return images

    def _drawer(self) -> Any:
        """The pipeline if it draws from words alone, else a pipeline of the same parts that does."""
        import diffusers

        kind = getattr(diffusers, self.draws_with)
        if any(cls.__name__ == self.draws_with for cls in type(self.pipe).__mro__):
            return self.pipe
        parts = {**self.pipe.config, **self.pipe.components}
        return kind(**{name: parts[name] for name in inspect.signature(kind).parameters if name in parts})

    def _check_draws(self) -> None:
        """Refuse a denoiser that takes more than noised latents.

        Raises:
            ModelError: its channels are not those of a picture's latents, as in a model for inpainting.
        """
        channels, expected = self.latent_shape[0], self._vae_channels
        if channels != expected:
            raise ModelError(
                f"the denoiser takes {channels} channels, not the {expected} of a picture's latents (a "
                "model for inpainting?), so nothing can be drawn with it from words alone; erase with a closed form, "
                "apply the edit, and draw with the pipeline itself."
            )

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
        requests = list(zip(prompts, seeds, strict=True))
        images: list[Image.Image] = []
        parts = split(requests, batch)

        def watch(share: float) -> None:
            if progress:
                progress(len(images) + share * min(batch, len(prompts) - len(images)), len(prompts))

        for drawn in self.batches(parts, steps=steps, guidance=guidance, watch=watch if progress else None):
            images += drawn
            if progress:
                progress(len(images), len(prompts))
        return images

    @torch.no_grad()
    def latents(self, images: Sequence[Image.Image]) -> Tensor:
        self.complete()
        vae, parts = self.pipe.vae, []
        with _upcast_vae(vae):
            device, dtype = self._device_of(vae), computes_in(vae)
            size = max((i.width * i.height for i in images), default=1)
            for chunk in split(images, max(1, IMAGE_PIXELS // size)):
                pixels = np.stack([np.asarray(i.convert("RGB")) for i in chunk])
                x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1
                parts.append(self._to_raw(x.to(device, dtype)).float().cpu())
        return self._scaled(torch.cat(parts))

    @torch.no_grad()
    def decode(self, latents: Tensor) -> list[Image.Image]:
        self.complete()
        vae, images = self.pipe.vae, list[Image.Image]()
        with _upcast_vae(vae):
            device, dtype = self._device_of(vae), computes_in(vae)
            raw = self._unscaled(latents)
            size = raw.shape[-2] * raw.shape[-1] * self.pipe.vae_scale_factor**2
            for part in raw.split(max(1, IMAGE_PIXELS // size)):
                pixels = self._from_raw(part.to(device, dtype))
                images += self.pipe.image_processor.postprocess(pixels.float(), output_type="pil")
        return images

    @property
    def _vae_channels(self) -> int:
        """Channels that `latents` has according to the autoencoder."""
        return int(self.pipe.vae.config.latent_channels)

    def _to_raw(self, pixels: Tensor) -> Tensor:
        """What the autoencoder makes of pictures (n, 3, H, W) from -1 to 1, before it is scaled."""
        encoded = self.pipe.vae.encode(pixels)
        raw: Tensor = encoded.latent_dist.mean if hasattr(encoded, "latent_dist") else encoded.latent
        return raw

    def _from_raw(self, raw: Tensor) -> Tensor:
        """The inverse of `_to_raw`."""
        pixels: Tensor = self.pipe.vae.decode(raw).sample
        return pixels

    def _scaled(self, raw: Tensor) -> Tensor:
        """Latents, as the denoiser takes them, of what the autoencoder gives."""
        config = self.pipe.vae.config
        return (raw - (config.get("shift_factor") or 0)) * config.scaling_factor

    def _unscaled(self, latents: Tensor) -> Tensor:
        """The inverse of `_scaled`."""
        config = self.pipe.vae.config
        return latents / config.scaling_factor + (config.get("shift_factor") or 0)


@contextmanager
def _upcast_vae(vae: Any) -> Iterator[None]:
    """Run an autoencoder in single precision where half overflows (SDXL), as the pipelines do."""
    dtype = next(vae.parameters()).dtype
    upcast = dtype == torch.float16 and bool(vae.config.get("force_upcast"))
    if upcast:
        vae.to(torch.float32)
    try:
        yield
    finally:
        if upcast:
            vae.to(dtype)
