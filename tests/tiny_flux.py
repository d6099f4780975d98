"""A tiny random FLUX.1 pipeline: two joint and two single blocks, CLIP and T5, pictures of 16 pixels."""

from __future__ import annotations

from typing import Any

import diffusers
from tiny_parts import clip_text, clip_tokenizer, kl_vae, lively, quiet, t5_text, t5_tokenizer


def build(guidance: bool = True, shifts: bool = True, seed: int = 10) -> Any:
    """dev embeds guidance and shifts its schedule by the picture's size; schnell does neither."""
    clip, t5 = clip_tokenizer(), t5_tokenizer()
    transformer = diffusers.FluxTransformer2DModel(
        in_channels=16,  # four latent channels in patches of 2 x 2
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        axes_dims_rope=(4, 4, 8),  # their sum is the width of a head
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=24,
        guidance_embeds=guidance,
    )
    return quiet(
        diffusers.FluxPipeline(
            scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=shifts),
            vae=kl_vae(),
            text_encoder=clip_text(clip, 24, projection=None),
            tokenizer=clip,
            text_encoder_2=t5_text(t5),
            tokenizer_2=t5,
            transformer=lively(transformer, seed),
        )
    )


def schnell() -> Any:
    return build(guidance=False, shifts=False)


def undistilled() -> Any:
    return build(guidance=False)


def call(guidance: float) -> dict[str, Any]:
    """Arguments of the pipeline's own call for guidance of a scale; 1 is none."""
    return {"max_sequence_length": 32, "negative_prompt": "", "true_cfg_scale": guidance}


def call_distilled(guidance: float) -> dict[str, Any]:
    """dev and schnell have no halves of any scale."""
    return {"max_sequence_length": 32}
