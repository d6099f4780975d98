"""A tiny random Z-Image pipeline: Qwen 3 in a chat, two refiners, two blocks of one stream, pictures of 16 pixels."""

from __future__ import annotations

from typing import Any

import diffusers
from tiny_parts import kl_vae, lively, quiet, qwen3_text, qwen_tokenizer


def build(seed: int = 12) -> Any:
    tokenizer = qwen_tokenizer()
    transformer = diffusers.ZImageTransformer2DModel(
        in_channels=4,
        dim=32,
        n_layers=2,
        n_refiner_layers=2,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=24,
        axes_dims=[4, 4, 8],
        axes_lens=[256, 64, 64],
    )
    return quiet(
        diffusers.ZImagePipeline(
            scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
            vae=kl_vae(),
            text_encoder=qwen3_text(tokenizer, 24),
            tokenizer=tokenizer,
            transformer=lively(transformer, seed),
        )
    )


def call(guidance: float) -> dict[str, Any]:
    """Arguments of the pipeline's own call for guidance of a scale; 1 is none."""
    return {"max_sequence_length": 64, "guidance_scale": guidance - 1}
