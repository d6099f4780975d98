"""A tiny random Lumina-Image 2.0 pipeline: Gemma 2, two refiners, two blocks of one stream, pictures of 64 pixels."""

from __future__ import annotations

from typing import Any

import diffusers
from tiny_parts import gemma2_text, gemma_tokenizer, kl_vae, lively, quiet


def build(seed: int = 16, **scheduler: Any) -> Any:
    """The pipeline's factor from latents to pixels is 8, whatever the autoencoder does."""
    tokenizer = gemma_tokenizer()
    transformer = diffusers.Lumina2Transformer2DModel(
        sample_size=8,
        in_channels=4,
        hidden_size=32,
        num_layers=2,
        num_refiner_layers=2,
        num_attention_heads=2,
        num_kv_heads=1,
        multiple_of=16,
        axes_dim_rope=(4, 4, 8),
        axes_lens=(300, 32, 32),
        cap_feat_dim=24,
    )
    return quiet(
        diffusers.Lumina2Pipeline(
            transformer=lively(transformer, seed),
            scheduler=diffusers.FlowMatchEulerDiscreteScheduler(**{"shift": 6.0, **scheduler}),
            vae=kl_vae(factor=8),
            text_encoder=gemma2_text(tokenizer, 24),
            tokenizer=tokenizer,
        )
    )


def call(guidance: float) -> dict[str, Any]:
    """Arguments of the pipeline's own call for guidance of a scale; 1 is none."""
    return {"max_sequence_length": 64, "guidance_scale": guidance}
