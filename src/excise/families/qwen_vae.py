"""What families with the autoencoder of Qwen-Image share: it takes pictures as films of one frame, and whitens them."""

from __future__ import annotations

import torch
from torch import Tensor

from excise.families.transformer import TransformerFamily

SIDE = 1024  # of a picture in pixels, where the autoencoder's configuration names no size


class QwenVaeFamily(TransformerFamily):
    """Adapter of a pipeline with an `AutoencoderKLQwenImage`, and latents packed into patches of 2 x 2."""

    @property
    def image_size(self) -> int:
        return int(self.pipe.vae.config.get("sample_size") or SIDE)

    @property
    def _channels(self) -> int:
        return int(self.denoiser.config.in_channels) // 4

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
