"""A tiny random Krea 2 pipeline: three layers of Qwen 3-VL, fused, and two blocks; pictures of 16 pixels."""

from __future__ import annotations

from typing import Any

import diffusers
import transformers
from tiny_parts import decoder, lively, quiet, qwen_ids, qwen_tokenizer, qwen_vae, qwen_vision

LAYERS = (1, 2, 4)


def encoder(tokenizer: Any) -> Any:
    rope = {"rope_type": "default", "mrope_section": [2, 1, 1], "mrope_interleaved": True, "rope_theta": 5e6}
    config = transformers.Qwen3VLConfig(
        text_config=decoder(tokenizer, 32, 4, rope_scaling=rope, rope_parameters=rope),
        vision_config=qwen_vision(32),
        **qwen_ids(tokenizer),
    )
    return lively(transformers.Qwen3VLModel(config), 6)


def build(distilled: bool = False, layers: tuple[int, ...] = LAYERS, seed: int = 15) -> Any:
    tokenizer = qwen_tokenizer(64 + 34)
    transformer = diffusers.Krea2Transformer2DModel(
        in_channels=16,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=64,
        timestep_embed_dim=16,
        text_hidden_dim=32,
        num_text_layers=len(LAYERS),
        text_num_attention_heads=4,
        text_num_key_value_heads=2,
        text_intermediate_size=64,
        num_layerwise_text_blocks=1,
        num_refiner_text_blocks=1,
        axes_dims_rope=(4, 4, 8),
    )
    return quiet(
        diffusers.Krea2Pipeline(
            scheduler=diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
            vae=qwen_vae(),
            text_encoder=encoder(tokenizer),
            tokenizer=tokenizer,
            transformer=lively(transformer, seed),
            text_encoder_select_layers=layers,
            is_distilled=distilled,
        )
    )


def call(guidance: float) -> dict[str, Any]:
    """Arguments of the pipeline's own call for guidance of a scale; 1 is none."""
    return {"max_sequence_length": 64, "guidance_scale": guidance - 1}
