"""The parts of `canvas-sana`: a deep-compression autoencoder, a linear transformer on its latents, flow matching.

64 x 64 pixels become 8 x 8 latents of 16 channels: like the real model the transformer sees few, rich tokens.
"""

from __future__ import annotations

from diffusers import (
    AutoencoderDC,
    DPMSolverMultistepScheduler,
    SanaPipeline,
    SanaTransformer2DModel,
)
from transformers import Gemma2Model, GemmaTokenizer

from excise.canvas.gemma import WIDTH

CHANNELS = 16
HEADS, HEAD_WIDTH, LAYERS = 8, 32, 9
FLOW_SHIFT = 2.0  # towards noise; 3 for the real model's larger pictures


def autoencoder() -> AutoencoderDC:
    """An untrained autoencoder: three halvings by pixel unshuffling, residual blocks."""
    widths = (32, 64, 64, 128)
    plain = ((),) * len(widths)
    return AutoencoderDC(
        latent_channels=CHANNELS,
        encoder_block_out_channels=widths,
        decoder_block_out_channels=widths,
        encoder_layers_per_block=(1, 1, 1, 1),
        decoder_layers_per_block=(1, 1, 1, 1),
        encoder_qkv_multiscales=plain,
        decoder_qkv_multiscales=plain,
    )


def denoiser() -> SanaTransformer2DModel:
    """An untrained denoiser."""
    return SanaTransformer2DModel(
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        num_attention_heads=HEADS,
        attention_head_dim=HEAD_WIDTH,
        num_layers=LAYERS,
        num_cross_attention_heads=4,
        cross_attention_head_dim=HEADS * HEAD_WIDTH // 4,
        cross_attention_dim=HEADS * HEAD_WIDTH,
        caption_channels=WIDTH,
        mlp_ratio=2.5,
        sample_size=8,
        interpolation_scale=1,  # positions by sines, as the largest of the real ones have them
    )


def pipeline(vae: AutoencoderDC, text: Gemma2Model, tokenizer: GemmaTokenizer) -> SanaPipeline:
    """The whole model with an untrained denoiser."""
    return SanaPipeline(
        tokenizer=tokenizer,
        text_encoder=text,
        vae=vae,
        transformer=denoiser(),
        scheduler=DPMSolverMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=FLOW_SHIFT
        ),
    )
