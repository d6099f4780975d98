"""A tiny random Stable Diffusion 3.5: three joint blocks, two CLIPs and T5, pictures of 32 pixels."""

from __future__ import annotations

from typing import Any

import diffusers
from tiny_parts import clip_text, clip_tokenizer, kl_vae, lively, quiet, t5_text, t5_tokenizer


def build(qk_norm: str | None = "rms_norm", dual: tuple[int, ...] = (0,), t5: bool = True, seed: int = 11) -> Any:
    """As 3.5-medium: keys are normed, and the first block attends from the picture to itself once more."""
    clip, third = clip_tokenizer(), t5_tokenizer()
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=16,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=3,
        attention_head_dim=8,
        num_attention_heads=4,
        joint_attention_dim=72,  # wider than both CLIPs together
        caption_projection_dim=32,  # must be heads x head width
        pooled_projection_dim=64,
        pos_embed_max_size=16,
        qk_norm=qk_norm,
        dual_attention_layers=dual,
    )
    return quiet(
        diffusers.StableDiffusion3Pipeline(
            scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
            vae=kl_vae(),
            text_encoder=clip_text(clip, 24, 24),
            tokenizer=clip,
            text_encoder_2=clip_text(clip, 40, 40, seed=3),
            tokenizer_2=clip,
            text_encoder_3=t5_text(third, 72) if t5 else None,
            tokenizer_3=third if t5 else None,
            transformer=lively(transformer, seed),
        )
    )


def without_t5() -> Any:
    """As Stable Diffusion 3 is often loaded: zeros stand in the place of T5's states."""
    return build(qk_norm=None, dual=(), t5=False)


def call(guidance: float) -> dict[str, Any]:
    """Arguments of the pipeline's own call for guidance of a scale; 1 is none."""
    return {"max_sequence_length": 32, "guidance_scale": guidance}


def call_without_t5(guidance: float) -> dict[str, Any]:
    return {"guidance_scale": guidance}
