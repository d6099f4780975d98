"""Components of `canvas-sdxl`: two text encoders and a v-predicting UNet conditioned on both and a pooled prompt."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from excise.canvas.clip import WIDTH
from excise.canvas.sd import SCHEDULE

SECOND_WIDTH = 128
TIME_WIDTH = 32  # of the embedding of each of the six numbers for size and crop
WIDEST, THINNED = 160, 144  # channels at the lowest resolution: in `canvas-sd`, and here


def denoiser() -> UNet2DConditionModel:
    """Return an untrained denoiser, without cross-attention at the highest resolution, as in the real one."""
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
    """Initialise `unet` from the denoiser of `canvas-sd`, which has one text encoder and predicts noise.

    Every tenth channel of the widest level is dropped, evenly over groups and heads. Weights for the second text
    encoder and the pooled prompt keep their random values.
    """
    weights = unet.state_dict()
    for name, weight in source.state_dict().items():
        target = weights[name]
        weight = weight.flatten(1) if target.ndim == 2 else weight  # projections: linear maps here, 1 x 1 there
        for dim, (old, new) in enumerate(zip(weight.shape, target.shape, strict=True)):
            if old > new:
                weight = weight.index_select(dim, _retained_channels(old))
        target[tuple(slice(n) for n in weight.shape)] = weight


def _retained_channels(channels: int) -> torch.Tensor:
    """Return the channels to retain of a tensor that begins with 160 (or a multiple) of the widest level."""
    i, wide = torch.arange(channels), channels - channels % WIDEST
    dropped = WIDEST // (WIDEST - THINNED)
    return i[(i >= wide) | (i % dropped != dropped - 1)]


def pipeline(
    vae: AutoencoderKL, text: CLIPTextModel, second: CLIPTextModelWithProjection, tokenizer: CLIPTokenizer
) -> StableDiffusionXLPipeline:
    """Return the pipeline with an untrained denoiser; the condition of the empty prompt is zeros."""
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
