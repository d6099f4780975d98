"""Components of `canvas-sd`: a noise-predicting `UNet2DConditionModel` under 10 M parameters, and the pipeline."""

from __future__ import annotations

from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextModel, CLIPTokenizer

from excise.canvas.clip import WIDTH

# The noise schedule of Stable Diffusion 1.x.
SCHEDULE = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
}


def denoiser() -> UNet2DConditionModel:
    """Return an untrained denoiser with cross-attention at 8 x 8 and 4 x 4; widths suit CPUs (multiples of 32)."""
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        block_out_channels=(96, 128, 160),
        layers_per_block=1,
        cross_attention_dim=WIDTH,
        attention_head_dim=4,  # diffusers reads this as the number of heads
        norm_num_groups=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    )


def pipeline(
    vae: AutoencoderKL, text: CLIPTextModel, tokenizer: CLIPTokenizer, unet: nn.Module | None = None
) -> StableDiffusionPipeline:
    """Return the pipeline, by default with an untrained denoiser."""
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=text,
        tokenizer=tokenizer,
        unet=unet or denoiser(),
        scheduler=DPMSolverMultistepScheduler(
            **SCHEDULE, prediction_type="epsilon", timestep_spacing="trailing", steps_offset=1
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
