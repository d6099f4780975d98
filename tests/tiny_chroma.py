"""A tiny random Chroma pipeline: two joint and two single blocks, T5, pictures of 32 pixels."""

from __future__ import annotations

from typing import Any

import diffusers
from tiny_parts import kl_vae, lively, quiet, t5_text, t5_tokenizer


def build(seed: int = 17) -> Any:
    t5 = t5_tokenizer()
    transformer = diffusers.ChromaTransformer2DModel(
        in_channels=16,  # four latent channels in patches of 2 x 2
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        axes_dims_rope=(4, 4, 8),
        approximator_num_channels=8,
        approximator_hidden_dim=16,
        approximator_layers=1,
    )
    return quiet(
        diffusers.ChromaPipeline(
            scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
            vae=kl_vae(),
            text_encoder=t5_text(t5),
            tokenizer=t5,
            transformer=lively(transformer, seed),
        )
    )


def call(guidance: float) -> dict[str, Any]:
    """Arguments of the pipeline's own call for guidance of a scale; 1 is none."""
    return {"max_sequence_length": 32, "guidance_scale": guidance}
