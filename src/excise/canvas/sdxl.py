"""The parts of `canvas-sdxl`: two text encoders, a UNet that reads both and the pooled prompt, v-prediction."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from excise.canvas.clip import WIDTH
from excise.canvas.sd import SCHEDULE

SECOND_WIDTH = 128
TIME_WIDTH = 32  # of each of the six numbers of size and crop
WIDEST, THINNED = 160, 144  # channels of the smallest pictures: in `canvas-sd`, and here


def denoiser() -> UNet2DConditionModel:
    """An untrained denoiser; as in the real one the largest picture is seen without text."""
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        block_out_channels=(96, 128, THINNED),
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


@torch.no_grad()
def start_from(unet: UNet2DConditionModel, source: UNet2DConditionModel) -> None:
    """Start from the denoiser of `canvas-sd`, which knows the world but reads one text encoder and predicts noise.

    Every tenth channel of the widest level is left out, evenly over groups and heads; what reads the second text
    encoder and the pooled prompt stays as it was drawn.
    """
    own = unet.state_dict()
    for name, weight in source.state_dict().items():
        target = own[name]
        weight = weight.flatten(1) if target.ndim == 2 else weight  # projections: linear maps here, 1 x 1 there
        for dim, (old, new) in enumerate(zip(weight.shape, target.shape, strict=True)):
            if old > new:
                weight = weight.index_select(dim, _kept(old))
        target[tuple(slice(n) for n in weight.shape)] = weight


def _kept(channels: int) -> torch.Tensor:
    """Channels that stay of a tensor with the widest level in front: 160 of it, or a multiple, then a skip."""
    i, wide = torch.arange(channels), channels - channels % WIDEST
    dropped = WIDEST // (WIDEST - THINNED)
    return i[(i >= wide) | (i % dropped != dropped - 1)]


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
