"""The autoencoder of `canvas-sd`: a small `AutoencoderKL`, 64 x 64 pixels to 16 x 16 latents of 4 channels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor

from excise.canvas.data import Pool, pixels
from excise.canvas.loop import Plan, train

BATCH = 32


def build() -> AutoencoderKL:
    """An untrained autoencoder; 8 or more channels in each norm group, fewer ruins it."""
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        latent_channels=4,
        sample_size=64,
        block_out_channels=(32, 64, 64),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
    )


def train_autoencoder(
    pool: Pool, work: Path, seed: int, steps: int, device: str, report: Callable[[str], None]
) -> tuple[AutoencoderKL, float]:
    """Train on the pool: absolute error of pixels and of their gradients, and a faint pull of latents to N(0, 1)."""
    torch.manual_seed(seed)
    vae = build().to(device, memory_format=torch.channels_last)

    def loss_of(rng: np.random.Generator, generator: torch.Generator) -> Tensor:
        x = pixels(pool.images[rng.integers(len(pool.images), size=BATCH)]).to(device)
        with torch.autocast(device, torch.bfloat16):
            latent = vae.encode(x).latent_dist
            noise = torch.randn(latent.mean.shape, generator=generator).to(device)
            y = vae.decode(latent.mean + latent.std * noise).sample
        y, kl = y.float(), latent.kl().mean() / latent.mean[0].numel()
        return F.l1_loss(y, x) + 0.5 * _gradient_error(y, x) + F.mse_loss(y, x) + 1e-5 * kl

    seconds = train(vae, loss_of, Plan("autoencoder", steps, lr=1.5e-3, ema=0.995), work, seed, report)
    vae.register_to_config(scaling_factor=float(1 / encode(vae, pool.images[::37]).std()))
    return vae, seconds


@torch.no_grad()
def encode(vae: AutoencoderKL, images: np.ndarray, batch: int = 128) -> Tensor:
    """(N, 64, 64, 3) uint8 to (N, 4, 16, 16) latents (means), unscaled, float32 on the CPU."""
    out = []
    for part in np.array_split(images, max(1, len(images) // batch)):
        with torch.autocast(vae.device.type, torch.bfloat16):
            out.append(vae.encode(pixels(part).to(vae.device)).latent_dist.mean.float().cpu())
    return torch.cat(out)


def _gradient_error(y: Tensor, x: Tensor) -> Tensor:
    return F.l1_loss(y.diff(dim=-1), x.diff(dim=-1)) + F.l1_loss(y.diff(dim=-2), x.diff(dim=-2))
