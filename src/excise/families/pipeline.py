"""What the adapters of diffusers pipelines share: drawing in batches, latents."""

from __future__ import annotations

import inspect
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import diffusers
import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from excise.errors import ModelError, unknown
from excise.families.base import (
    Condition,
    EncoderLayer,
    Family,
    Progress,
    Projection,
    Request,
    WeightMap,
    join,
    split,
)
from excise.families.networks import bare, check_trainable, computes_in, module_in, parameter_in
from excise.families.noising import noising
from excise.families.roles import ROLES, attention_layers, encoder_maps, layer_maps

ENCODE_BATCH = 256
IMAGE_PIXELS = 32 * 256**2  # that go through an autoencoder at once


class PipelineFamily(Family):
    """Adapter of a text-to-image pipeline of diffusers; holds it, never changes it."""

    name: str
    denoiser_name = "unet"
    encoder_names: tuple[str, ...] = ("text_encoder",)
    draws_with: str
    """The class in diffusers that draws from words alone with the parts of any pipeline of the family."""

    def __init__(self, pipe: Any) -> None:
        self.pipe: Any = pipe

    @property
    def denoiser(self) -> Any:
        """The denoiser itself, also where torch.compile or peft stands around it."""
        return bare(getattr(self.pipe, self.denoiser_name))

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self._device_of(self.denoiser)

    def _device_of(self, part: Any) -> torch.device:
        """Where a part computes; of an offloaded one that is not where its weights are."""
        device = next(part.parameters()).device
        return self.pipe._execution_device if device.type == "meta" else device

    @property
    def image_size(self) -> int:
        """Side of the pictures it draws, in pixels."""
        return int(self.denoiser.config.sample_size * self.pipe.vae_scale_factor)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(c, h, w) of one picture's latents."""
        config = self.denoiser.config
        return int(config.in_channels), int(config.sample_size), int(config.sample_size)

    @property
    def text_encoders(self) -> dict[str, Any]:
        """Its text encoders by their names in the pipeline, those that are loaded."""
        found = {name: getattr(self.pipe, name, None) for name in self.encoder_names}
        return {name: encoder for name, encoder in found.items() if encoder is not None}

    def check_encoders(self) -> None:
        """Refuse a pipeline that cannot encode text.

        Raises:
            ModelError: it was loaded without a text encoder.
        """
        for name in self.encoder_names:
            if name not in self.text_encoders:
                raise ModelError(
                    f"the pipeline was loaded without its '{name}' ({name}=None), which this needs; load it with it. "
                    "Applying and removing an edit of the denoiser alone needs none."
                )

    @property
    def tokenizers(self) -> dict[str, Any]:
        """The tokenizer of each text encoder, by the encoder's name."""
        return {name: getattr(self.pipe, name.replace("text_encoder", "tokenizer")) for name in self.text_encoders}

    def check_trainable(self) -> None:
        """Refuse a pipeline that no trained method is for.

        Raises:
            ModelError: it draws or noises in a way of its own, or its layers are not as they were loaded.
        """
        self._check_draws()
        noising(self.pipe.scheduler)
        check_trainable(self.denoiser)

    def encoder_layers(self) -> list[EncoderLayer]:
        """Layers of its text encoders that an edit can go into, first to last; none where their MLPs are normed."""
        return []

    @property
    def prediction(self) -> str:
        """What the denoiser predicts: epsilon, v_prediction or flow."""
        return noising(self.pipe.scheduler).kind

    def predict(self, latents: Tensor, timestep: Tensor, condition: Condition) -> Tensor:
        """What the denoiser says of `latents` (B, C, H, W) at `timestep` (B,), in its own parameterisation.

        Inputs may be anywhere and of any precision; the answer is in single, where the denoiser is.
        """
        self._check_draws()
        device, dtype = self.device, computes_in(self.denoiser)
        inputs = condition.to(device, dtype)
        return self._predict(latents.to(device, dtype), timestep.to(device), inputs).float()

    @abstractmethod
    def _predict(self, latents: Tensor, timestep: Tensor, condition: Condition) -> Tensor:
        """`predict` where everything is in place."""

    @abstractmethod
    def _condition(self, texts: Sequence[str]) -> Condition:
        """A part of `condition`."""

    @abstractmethod
    def _call(self, condition: Condition, unconditional: Condition) -> dict[str, Any]:
        """Both as the arguments of the pipeline."""

    def live_condition(self, texts: Sequence[str]) -> Condition:
        """As `condition`, all at once, and gradients flow through it."""
        self.check_encoders()
        return self._condition(texts)

    @torch.no_grad()
    def condition(self, texts: Sequence[str]) -> Condition:
        """Exactly what the pipeline hands to its denoiser for each prompt."""
        self.check_encoders()
        return join([self._condition(part) for part in split(list(texts), ENCODE_BATCH)])

    def projections(self, roles: str = "kv") -> list[Projection]:
        """The maps that read text, found by role: keys and values of every cross-attention as wide as the text.

        Raises:
            ModelError: there are none.
        """
        found = [
            Projection(m.path, m.part, module_in(self.denoiser, m.path))
            for m in self.attention_maps()
            if m.source == "cross" and m.part in "kv" and m.part in roles
        ]
        if not found and set(roles) & set("kv"):
            raise ModelError(
                f"{type(self.denoiser).__name__} has no cross-attention that reads text of width {self.text_width}; "
                "expected a model whose cross-attention reads its own text encoder. See: excise doctor --model M"
            )
        return found

    def attention_maps(self) -> list[WeightMap]:
        return [
            m for path, layer in attention_layers(self.denoiser) for m in layer_maps(path, layer, self._reads(layer))
        ]

    def _reads(self, layer: Any) -> str:
        """What an attention layer reads: `source` of its maps (`WeightMap`)."""
        if layer._modules.get("add_k_proj") is not None:
            return "joint"
        reads_text = layer.is_cross_attention and bare(layer.to_k).in_features == self.text_width
        return "cross" if reads_text else "self"

    def maps(self, role: str) -> list[WeightMap]:
        if role not in ROLES:
            raise unknown("role", role, ROLES)
        known = self.attention_maps()
        if role in ("text_mlp", "text_all", "embedding"):
            self.check_encoders()
            known += encoder_maps(self.text_encoders)
        if matches := [m for m in known if ROLES[role](m)]:
            return matches
        known += encoder_maps(self.text_encoders)
        present = [name for name, fits in ROLES.items() if any(map(fits, known))]
        raise ModelError(f"the family '{self.name}' has no weights of the role '{role}'; it has: {', '.join(present)}.")

    def module(self, path: str) -> Any:
        return module_in(*self._located(path))

    def parameter(self, path: str) -> nn.Parameter:
        module, name = parameter_in(*self._located(path))
        return module._parameters[name]

    def _located(self, path: str) -> tuple[Any, str]:
        """The network that a path is of, and the path in it."""
        name, _, rest = path.partition(".")
        if name not in self.encoder_names:
            return self.denoiser, path
        self.check_encoders()
        return self.text_encoders[name], rest

    @torch.no_grad()
    def batches(
        self, requests: Sequence[Sequence[Request]], *, steps: int, guidance: float
    ) -> Iterator[list[Image.Image]]:
        """Draw batch after batch; every distinct prompt is encoded once for all of them.

        Args:
            requests: batches of (prompt, seed). An image starts from a CPU generator of its own, whatever its batch.
        """
        distinct = list(dict.fromkeys(prompt for batch in requests for prompt, _ in batch))
        if not distinct:
            return
        known, unconditional = self.condition(distinct), self.unconditional()
        row = {prompt: i for i, prompt in enumerate(distinct)}
        for batch in requests:
            condition = known[[row[prompt] for prompt, _ in batch]]
            yield self.render(condition, unconditional, [seed for _, seed in batch], steps=steps, guidance=guidance)

    @torch.no_grad()
    def render(
        self, condition: Condition, unconditional: Condition, seeds: Sequence[int], *, steps: int, guidance: float
    ) -> list[Image.Image]:
        """One batch of pictures by the pipeline, of conditions that need not come from words.

        Args:
            condition: (B) rows. unconditional: one row, that guidance moves away from. seeds: (B).
        """
        self._check_draws()
        drawer = self._drawer()
        drawer.set_progress_bar_config(disable=True)
        drawn: list[Image.Image] = drawer(
            **self._call(condition, unconditional[[0] * len(condition)]),
            generator=[torch.Generator("cpu").manual_seed(seed) for seed in seeds],
            num_inference_steps=steps,
            guidance_scale=guidance,
        ).images
        return drawn

    def _drawer(self) -> Any:
        """The pipeline where it draws from words alone, else one that does, of the same parts."""
        kind = getattr(diffusers, self.draws_with)
        if any(cls.__name__ == self.draws_with for cls in type(self.pipe).__mro__):
            return self.pipe
        known = {**self.pipe.config, **self.pipe.components}
        taken = [name for name in inspect.signature(kind).parameters if name in known]
        return kind(**{name: known[name] for name in taken})

    def _check_draws(self) -> None:
        """Refuse a denoiser that wants more than noised latents.

        Raises:
            ModelError: it is one for inpainting, say.
        """
        takes, vae = int(self.denoiser.config.in_channels), self.pipe.vae.config
        if takes != vae.latent_channels:
            raise ModelError(
                f"the denoiser takes {takes} channels, not the {vae.latent_channels} of a picture's latents (a model "
                "for inpainting?), so nothing can be drawn with it from words alone; erase with a closed form, apply "
                "the edit, and draw with the pipeline itself."
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
        """One image a prompt, all in memory; image i has the seed `seeds[i]`."""
        asked = list(zip(prompts, seeds, strict=True))
        images: list[Image.Image] = []
        for drawn in self.batches(split(asked, batch), steps=steps, guidance=guidance):
            images += drawn
            if progress:
                progress(len(images), len(prompts))
        return images

    @torch.no_grad()
    def latents(self, images: Sequence[Image.Image]) -> Tensor:
        """(n, c, h, w) scaled latents of images on the CPU in single precision; of a posterior its mean."""
        vae, parts = self.pipe.vae, []
        with _steady(vae):
            device, dtype = self._device_of(vae), computes_in(vae)
            size = max((i.width * i.height for i in images), default=1)
            for chunk in split(images, max(1, IMAGE_PIXELS // size)):
                pixels = np.stack([np.asarray(i.convert("RGB")) for i in chunk])
                x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1
                encoded = vae.encode(x.to(device, dtype))
                latent = encoded.latent_dist.mean if hasattr(encoded, "latent_dist") else encoded.latent
                parts.append(latent.float().cpu())
        return torch.cat(parts) * vae.config.scaling_factor

    @torch.no_grad()
    def decode(self, latents: Tensor) -> list[Image.Image]:
        """Pictures of scaled latents (n, c, h, w), the way back from `latents`."""
        vae, images = self.pipe.vae, list[Image.Image]()
        with _steady(vae):
            device, dtype = self._device_of(vae), computes_in(vae)
            size = latents.shape[-2] * latents.shape[-1] * self.pipe.vae_scale_factor**2
            for part in latents.split(max(1, IMAGE_PIXELS // size)):
                pixels = vae.decode((part / vae.config.scaling_factor).to(device, dtype)).sample
                images += self.pipe.image_processor.postprocess(pixels.float(), output_type="pil")
        return images


@contextmanager
def _steady(vae: Any) -> Iterator[None]:
    """In single precision for a while, where half overflows (SDXL), as the pipelines themselves do it."""
    dtype = next(vae.parameters()).dtype
    upcast = dtype == torch.float16 and bool(vae.config.get("force_upcast"))
    if upcast:
        vae.to(torch.float32)
    try:
        yield
    finally:
        if upcast:
            vae.to(dtype)


def clip_layers(name: str, encoder: Any, unread: int = 0) -> list[EncoderLayer]:
    """The layers of a CLIP text encoder.

    Args:
        name: of the encoder in the pipeline. unread: layers at the end that what is read does not come through.
    """
    paths = [f"{name}.encoder.layers.{i}" for i in range(int(encoder.config.num_hidden_layers) - unread)]
    return [EncoderLayer(name, path, f"{path}.mlp.fc2") for path in paths]
