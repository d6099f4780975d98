"""The parts of `canvas-sdxl`: two text encoders, a UNet that reads both and the pooled prompt, v-prediction."""

from __future__ import annotations

from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from excise.canvas.clip import WIDTH
from excise.canvas.sd import SCHEDULE

SECOND_WIDTH = 128
TIME_WIDTH = 32  # of each of the six numbers of size and crop


def denoiser() -> UNet2DConditionModel:
    """An untrained denoiser; as in the real one the largest picture is seen without text."""
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        block_out_channels=(96, 128, 144),
        layers_per_block=1,
        cross_attention_dim=WIDTH + SECOND_WIDTH,
        attention_head_dim=4,
        norm_num_groups=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=TIME_WIDTH,
        projection_class_embeddings_input_dim=SECOND_WIDTH + 6 * TIME_WIDTH,
    )


def pipeline(
    vae: AutoencoderKL, text: CLIPTextModel, second: CLIPTextModelWithProjection, tokenizer: CLIPTokenizer
) -> StableDiffusionXLPipeline:
    """The whole model with an untrained denoiser; without a prompt it is conditioned on zeros."""
    return StableDiffusionXLPipeline(
        vae=vae,
        text_encoder=text,
        text_encoder_2=second,
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=denoiser(),
        scheduler=DPMSolverMultistepScheduler(
            **SCHEDULE, prediction_type="v_prediction", timestep_spacing="trailing", steps_offset=1
        ),
        force_zeros_for_empty_prompt=True,
        add_watermarker=False,
    )
