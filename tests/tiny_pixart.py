"""A tiny random PixArt-Sigma pipeline: two blocks of cross-attention, T5, epsilon, pictures of 32 pixels."""

from __future__ import annotations

from typing import Any

import diffusers
from tiny_parts import kl_vae, lively, quiet, t5_text, t5_tokenizer


def build(seed: int = 18, conditions: bool = False) -> Any:
    """With `conditions` of the picture's size, as PixArt-Alpha has them."""
    t5 = t5_tokenizer()
    transformer = diffusers.PixArtTransformer2DModel(
        sample_size=16,
        patch_size=2,
        in_channels=4,
        out_channels=8,  # noise and its variance
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        cross_attention_dim=32,  # must be heads x head width
        caption_channels=24,
        norm_type="ada_norm_single",
        use_additional_conditions=conditions,
    )
    return quiet(
        diffusers.PixArtSigmaPipeline(
            tokenizer=t5,
            text_encoder=t5_text(t5, 24),
            vae=kl_vae(shift=None),
            transformer=lively(transformer, seed),
            scheduler=diffusers.DPMSolverMultistepScheduler(),
        )
    )


def call(guidance: float) -> dict[str, Any]:
    """Arguments of the pipeline's own call for guidance of a scale; 1 is none."""
    return {
        "max_sequence_length": 32,
        "guidance_scale": guidance,
        "clean_caption": False,
        "use_resolution_binning": False,
    }
