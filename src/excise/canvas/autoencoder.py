"""Train the autoencoders: a small `AutoencoderKL` (16 x 16 x 4 latents), and the `AutoencoderDC` of `canvas-sana`."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderDC, AutoencoderKL
from torch import Tensor

from excise.canvas.data import Pool, pixels
from excise.canvas.loop import Plan, Session, train
from excise.support.precision import fastest

BATCH = 32
LATENT_NOISE = 0.05  # standard deviation; the loss pulls the latents towards unit variance


def build() -> AutoencoderKL:
    """Return an untrained autoencoder; norm groups have 8 channels or more, since fewer spoil its training."""
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


def train_autoencoder(pool: Pool, session: Session, steps: int) -> tuple[AutoencoderKL, float]:
    """Train an `AutoencoderKL` on the pool: L1 and L2 error of pixels, L1 error of their gradients, a small KL term.

    Args:
        pool: renders to reconstruct.
        session: where and how to train.
        steps: optimiser steps in total.

    Returns:
        The autoencoder with its scaling factor set, and seconds spent, earlier runs included.
    """
    torch.manual_seed(session.seed)
    vae = build().to(session.device, memory_format=torch.channels_last)

    def loss_of(rng: np.random.Generator, generator: torch.Generator) -> Tensor:
        x = pixels(pool.images[rng.integers(len(pool.images), size=BATCH)]).to(session.device)
        with fastest(session.device):
            latent = vae.encode(x).latent_dist
            noise = torch.randn(latent.mean.shape, generator=generator).to(session.device)
            y = vae.decode(latent.mean + latent.std * noise).sample
        y, kl = y.float(), latent.kl().mean() / latent.mean[0].numel()
        return _error(y, x) + 1e-5 * kl

    plan = Plan("autoencoder", steps, lr=1.5e-3, ema=0.995)
    seconds = train(vae, loss_of, plan, session.work, session.seed, session.report)
    vae.register_to_config(scaling_factor=float(1 / encode(vae, pool.images[::37]).std()))
    return vae, seconds


def train_deep(vae: AutoencoderDC, pool: Pool, session: Session, steps: int) -> float:
    """Train an `AutoencoderDC` in place, with noise on its latents instead of a posterior.

    Other arguments as in `train_autoencoder`.

    Returns:
        Seconds spent, earlier runs included.
    """
    vae.to(session.device).requires_grad_(True)

    def loss_of(rng: np.random.Generator, generator: torch.Generator) -> Tensor:
        x = pixels(pool.images[rng.integers(len(pool.images), size=BATCH)]).to(session.device).contiguous()
        with fastest(session.device):
            latent = vae.encode(x).latent
            noise = torch.randn(latent.shape, generator=generator).to(session.device)
            y = vae.decode(latent + LATENT_NOISE * noise).sample
        return _error(y.float(), x) + 1e-3 * latent.float().square().mean()

    plan = Plan("autoencoder-dc", steps, lr=1.5e-3, ema=0.995)
    seconds = train(vae, loss_of, plan, session.work, session.seed, session.report)
    vae.requires_grad_(False).register_to_config(scaling_factor=float(1 / encode(vae, pool.images[::37]).std()))
    return seconds


@torch.no_grad()
def encode(vae: AutoencoderKL | AutoencoderDC, images: np.ndarray, batch: int = 128) -> Tensor:
    """Encode images (N, 64, 64, 3), uint8, as unscaled latents (posterior means) (N, c, h, w), float32 on the CPU."""
    out = []
    for part in np.array_split(images, max(1, len(images) // batch)):
        with fastest(vae.device.type):
            encoded = vae.encode(pixels(part).to(vae.device))
        latents = encoded.latent_dist.mean if isinstance(vae, AutoencoderKL) else encoded.latent
        out.append(latents.float().cpu())
    return torch.cat(out)


def _error(y: Tensor, x: Tensor) -> Tensor:
    return F.l1_loss(y, x) + 0.5 * _gradient_error(y, x) + F.mse_loss(y, x)


def _gradient_error(y: Tensor, x: Tensor) -> Tensor:
    return F.l1_loss(y.diff(dim=-1), x.diff(dim=-1)) + F.l1_loss(y.diff(dim=-2), x.diff(dim=-2))
