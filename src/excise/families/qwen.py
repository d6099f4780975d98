"""What Qwen-Image and Krea 2 share: an instruction before every prompt, and an autoencoder of films.

The tokens of the instruction are encoded and then cut off. The autoencoder takes a picture as a film of one frame; its
latents are whitened channel by channel, and packed into patches of 2 x 2.
"""

from __future__ import annotations

import torch
from torch import Tensor

from excise.families.transformer import TransformerFamily

SIDE = 1024  # of a picture in pixels, where the autoencoder's configuration names no size


class QwenFamily(TransformerFamily):
    """Adapter of a pipeline with the instruction of Qwen-Image and an `AutoencoderKLQwenImage`."""

    packs = True

    @property
    def _cut(self) -> int:
        """Number of tokens of the instruction."""
        return int(self.pipe.prompt_template_encode_start_idx)

    @property
    def max_tokens(self) -> int:
        self.check_encoders()
        return int(min(self.longest, self.pipe.tokenizer.model_max_length - self._cut))

    @property
    def image_size(self) -> int:
        return int(self.pipe.vae.config.get("sample_size") or SIDE)

    @property
    def _vae_channels(self) -> int:
        return int(self.pipe.vae.config.z_dim)

    def _to_raw(self, pixels: Tensor) -> Tensor:
        return super()._to_raw(pixels[:, :, None])[:, :, 0]

    def _from_raw(self, raw: Tensor) -> Tensor:
        return super()._from_raw(raw[:, :, None])[:, :, 0]

    def _figures(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """(1, c, 1, 1) each: mean and deviation of each channel of latents."""
        config = self.pipe.vae.config
        mean, deviation = torch.tensor([config.latents_mean, config.latents_std]).to(like).view(2, 1, -1, 1, 1)
        return mean, deviation

    def _scaled(self, raw: Tensor) -> Tensor:
        mean, deviation = self._figures(raw)
        return (raw - mean) / deviation

    def _unscaled(self, latents: Tensor) -> Tensor:
        mean, deviation = self._figures(latents)
        return latents * deviation + mean
