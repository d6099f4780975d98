"""A tiny random Qwen-Image pipeline: Qwen 2.5-VL behind its instruction, two joint blocks, pictures of 16 pixels."""

from __future__ import annotations

from typing import Any

import diffusers
import transformers
from tiny_parts import decoder, lively, quiet, qwen_ids, qwen_tokenizer, qwen_vae, qwen_vision


def encoder(tokenizer: Any) -> Any:
    rope = {"rope_type": "default", "type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e6}
    config = transformers.Qwen2_5_VLConfig(
        text_config=decoder(tokenizer, 32, 3, rope_scaling=rope, rope_parameters=rope),
        vision_config=qwen_vision(32),
        **qwen_ids(tokenizer),
    )
    return lively(transformers.Qwen2_5_VLForConditionalGeneration(config), 5)


def build(seed: int = 14) -> Any:
    tokenizer = qwen_tokenizer(64 + 34)
    transformer = diffusers.QwenImageTransformer2DModel(
        in_channels=16,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        axes_dims_rope=(4, 4, 8),
    )
    return quiet(
        diffusers.QwenImagePipeline(
            scheduler=diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
            vae=qwen_vae(),
            text_encoder=encoder(tokenizer),
            tokenizer=tokenizer,
            transformer=lively(transformer, seed),
        )
    )


def call(guidance: float) -> dict[str, Any]:
    """Arguments of the pipeline's own call for guidance of a scale; 1 is none."""
    negative = {"negative_prompt": " "} if guidance > 1 else {}
    return {"max_sequence_length": 64, "true_cfg_scale": guidance, **negative}
