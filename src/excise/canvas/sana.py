"""Components of `canvas-sana`: a deep-compression autoencoder and a linear transformer with flow matching.

64 x 64 pixels become 8 x 8 latents of 16 channels, so the transformer sees few tokens, as in the real model.
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
FLOW_SHIFT = 2.0  # of the timesteps towards noise; the real model has 3 for its larger images


def autoencoder() -> AutoencoderDC:
    """Return an untrained autoencoder of residual blocks; pixel unshuffling halves the resolution three times."""
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
    """Return an untrained denoiser."""
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
        interpolation_scale=1,  # sinusoidal positions, as in the largest real models
    )


def pipeline(vae: AutoencoderDC, text: Gemma2Model, tokenizer: GemmaTokenizer) -> SanaPipeline:
    """Return the pipeline with an untrained denoiser."""
    return SanaPipeline(
        tokenizer=tokenizer,
        text_encoder=text,
        vae=vae,
        transformer=denoiser(),
        scheduler=DPMSolverMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=FLOW_SHIFT
        ),
    )
