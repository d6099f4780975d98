"""A tiny random SANA-Sprint pipeline: Gemma 2, two blocks with normed keys and embedded guidance, 32 pixels."""

from __future__ import annotations

from typing import Any

import diffusers
from tiny_parts import gemma2_text, gemma_tokenizer, lively, quiet
from torch import Tensor


def build(seed: int = 19, length: int = 64, guidance: bool = True, scheduler: Any = None) -> Any:
    """A tokenizer of a length of 64 has no room for SANA's instruction."""
    tokenizer = gemma_tokenizer(length)
    transformer = diffusers.SanaTransformer2DModel(
        sample_size=16,
        patch_size=1,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        num_attention_heads=2,
        attention_head_dim=16,
        num_cross_attention_heads=2,
        cross_attention_head_dim=16,
        cross_attention_dim=32,
        caption_channels=24,
        guidance_embeds=guidance,
        qk_norm="rms_norm_across_heads",
    )
    return quiet(
        diffusers.SanaSprintPipeline(
            tokenizer=tokenizer,
            text_encoder=gemma2_text(tokenizer, 24),
            vae=_autoencoder(),
            transformer=lively(transformer, seed),
            scheduler=scheduler or diffusers.SCMScheduler(),
        )
    )


def call(guidance: float) -> dict[str, Any]:
    """Arguments of the pipeline's own call; its guidance is embedded, whatever the scale."""
    return {"max_sequence_length": 64, "complex_human_instruction": None, "use_resolution_binning": False}


def flow(output: Tensor, angle: Tensor, latents: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What the scheduler is given, in TrigFlow and in units of its data's sigma (0.5), as a flow at times 1000 s."""
    s = (angle.sin() / (angle.sin() + angle.cos())).reshape(-1, 1, 1, 1)
    size = (s**2 + (1 - s) ** 2).sqrt()
    noised = latents / 0.5 * size
    return (output / 0.5 * size - (1 - 2 * s) * noised) / size**2, 1000 * s.flatten(), noised


def _autoencoder() -> Any:
    vae = diffusers.AutoencoderDC(
        in_channels=3,
        latent_channels=4,
        attention_head_dim=4,
        encoder_block_types=("ResBlock", "EfficientViTBlock"),
        decoder_block_types=("ResBlock", "EfficientViTBlock"),
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        encoder_layers_per_block=(1, 1),
        decoder_layers_per_block=(1, 1),
        encoder_qkv_multiscales=((), (5,)),
        decoder_qkv_multiscales=((), (5,)),
        downsample_block_type="Conv",
        upsample_block_type="interpolate",
        encoder_out_shortcut=False,
        decoder_norm_types="rms_norm",
        decoder_act_fns="silu",
        scaling_factor=0.5,
    )
    return lively(vae, 9)
