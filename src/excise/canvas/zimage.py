"""Components of `canvas-zimage`: refined text and picture in one stream, with flow matching.

The autoencoder is that of `canvas-sd`; 16 x 16 latents become 64 rows, which stand before 32 of text.
"""

from __future__ import annotations

from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, ZImagePipeline, ZImageTransformer2DModel
from transformers import Qwen2Tokenizer, Qwen3Model

from excise.canvas import qwen

WIDTH, HEADS = 256, 4
LAYERS, REFINERS = 5, 2
FLOW_SHIFT = 2.0  # of the timesteps towards noise; the real model has 3 for its larger pictures


def denoiser() -> ZImageTransformer2DModel:
    """Return an untrained denoiser."""
    return ZImageTransformer2DModel(
        in_channels=4,
        dim=WIDTH,
        n_layers=LAYERS,
        n_refiner_layers=REFINERS,
        n_heads=HEADS,
        n_kv_heads=HEADS,
        cap_feat_dim=qwen.WIDTH,
        axes_dims=[16, 24, 24],
        axes_lens=[256, 64, 64],
    )


def pipeline(vae: AutoencoderKL, text: Qwen3Model, tokenizer: Qwen2Tokenizer) -> ZImagePipeline:
    """Return the pipeline with an untrained denoiser."""
    vae.register_to_config(shift_factor=0.0)
    return ZImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=FLOW_SHIFT),
        vae=vae,
        text_encoder=text,
        tokenizer=tokenizer,
        transformer=denoiser(),
    )
