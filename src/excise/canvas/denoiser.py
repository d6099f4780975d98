"""The denoiser of `canvas-sd`: a `UNet2DConditionModel` under 10 M parameters that predicts the noise."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from diffusers import DDPMScheduler, DPMSolverMultistepScheduler, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from excise.canvas.clip import WIDTH, tokenize
from excise.canvas.data import Pool, caption
from excise.canvas.loop import Plan, train

BATCH = 64
DROP_PROMPT = 0.1  # share of empty prompts, for classifier-free guidance
SNR_CAP = 5.0  # min-SNR weighting, arXiv 2303.09556: hardly-noised steps count less
# The noise schedule of Stable Diffusion 1.x.
SCHEDULE = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "epsilon",
}


def build() -> UNet2DConditionModel:
    """An untrained denoiser; text is read at 8 x 8 and 4 x 4 (widths are multiples of 32 for speed on CPUs)."""
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


def sampler() -> DPMSolverMultistepScheduler:
    """The scheduler that ships with the pipeline."""
    return DPMSolverMultistepScheduler(**SCHEDULE, timestep_spacing="trailing", steps_offset=1)


class TextStates:
    """Text-encoder states by prompt; each distinct prompt is encoded once."""

    def __init__(self, text_model: CLIPTextModel, tokenizer: CLIPTokenizer) -> None:
        self.text_model, self.tokenizer = text_model, tokenizer
        self._known: dict[str, Tensor] = {}

    @torch.no_grad()
    def __call__(self, prompts: list[str]) -> Tensor:
        """(B, 32, 256) float32 on the text model's device."""
        new = [p for p in dict.fromkeys(prompts) if p not in self._known]
        if new:
            ids = tokenize(self.tokenizer, new).to(self.text_model.device)
            self._known.update(zip(new, self.text_model(ids).last_hidden_state.half(), strict=True))
        return torch.stack([self._known[p] for p in prompts]).float()


def train_denoiser(
    pool: Pool,
    latents: Tensor,
    states: TextStates,
    work: Path,
    seed: int,
    steps: int,
    device: str,
    report: Callable[[str], None],
) -> tuple[UNet2DConditionModel, float]:
    """Noise prediction on scaled latents (N, 4, 16, 16), one per image of the pool."""
    torch.manual_seed(seed)
    unet = build().to(device, memory_format=torch.channels_last)
    noiser = DDPMScheduler(**SCHEDULE)
    alpha = noiser.alphas_cumprod
    weight_at = (SNR_CAP * (1 - alpha) / alpha).clamp(max=1).to(device)  # min(SNR, cap) / SNR

    def loss_of(rng: np.random.Generator, generator: torch.Generator) -> Tensor:
        chosen = rng.integers(len(pool.cells), size=BATCH)
        prompts = ["" if rng.random() < DROP_PROMPT else caption(pool.cells[c], rng).text for c in chosen]
        clean = latents[torch.from_numpy(pool.pick(chosen, rng))].float()
        noise = torch.randn(clean.shape, generator=generator)
        # One timestep in each of BATCH equal slices: the same distribution with less variance.
        t = ((torch.arange(BATCH) + torch.rand(BATCH, generator=generator)) * (1000 / BATCH)).long()
        noised = noiser.add_noise(clean, noise, t).to(device, memory_format=torch.channels_last)
        text = states(prompts)
        with torch.autocast(device, torch.bfloat16):
            guess = unet(noised, t.to(device), text).sample
        error = (guess.float() - noise.to(device)).square().mean(dim=(1, 2, 3))
        return (weight_at[t.to(device)] * error).mean()

    seconds = train(unet, loss_of, Plan("denoiser", steps, lr=1e-3, ema=0.999, every=100), work, seed, report)
    return unet, seconds
