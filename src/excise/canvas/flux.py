"""Components of `canvas-flux`: dual-stream and single-stream blocks over T5 states and packed latents; flow matching.

The autoencoder is that of `canvas-sd`. The CLIP text encoder, whose pooled prompt enters the modulation of every block,
is the second one of `canvas-sdxl` without its projection.
"""

from __future__ import annotations

from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer, T5EncoderModel, T5Tokenizer

from excise.canvas import t5
from excise.canvas.sdxl import SECOND_WIDTH

HEADS, HEAD_WIDTH = 4, 64
DUAL, SINGLE = 2, 4


def tower(projected: CLIPTextModelWithProjection) -> CLIPTextModel:
    """Return a CLIP text encoder as the class without a projection."""
    text = CLIPTextModel(projected.config)
    weights = {k.removeprefix("text_model."): v for k, v in projected.state_dict().items()}
    text.load_state_dict({k: v for k, v in weights.items() if not k.startswith("text_projection")})
    return text.eval().requires_grad_(False)


def denoiser() -> FluxTransformer2DModel:
    """Return an untrained denoiser; 16 x 16 latents of 4 channels become 64 rows beside 32 of text."""
    return FluxTransformer2DModel(
        in_channels=16,
        num_layers=DUAL,
        num_single_layers=SINGLE,
        attention_head_dim=HEAD_WIDTH,
        num_attention_heads=HEADS,
        joint_attention_dim=t5.WIDTH,
        pooled_projection_dim=SECOND_WIDTH,
        guidance_embeds=False,
        axes_dims_rope=(16, 24, 24),
    )


def pipeline(
    vae: AutoencoderKL, first: CLIPTextModel, tokenizer: CLIPTokenizer, second: T5EncoderModel, pieces: T5Tokenizer
) -> FluxPipeline:
    """Return the pipeline with an untrained denoiser; its schedule shifts with the size of the picture."""
    vae.register_to_config(shift_factor=0.0)
    return FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae=vae,
        text_encoder=first,
        tokenizer=tokenizer,
        text_encoder_2=second,
        tokenizer_2=pieces,
        transformer=denoiser(),
    )
