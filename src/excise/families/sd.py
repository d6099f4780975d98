"""Stable Diffusion 1.x and 2.x: one CLIP text encoder, read by the cross-attention of a UNet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from diffusers.models.attention_processor import Attention
from PIL import Image
from torch import Tensor, nn

from excise.errors import ConceptError, ModelError
from excise.families.base import Progress, Projection, Request, TextStates, find_subject, split

ENCODE_BATCH = 256


class StableDiffusion:
    """Adapter of a `StableDiffusionPipeline`; holds it, never changes it."""

    name = "sd"

    def __init__(self, pipe: StableDiffusionPipeline) -> None:
        self.pipe: Any = pipe

    @property
    def denoiser(self) -> nn.Module:
        return self.pipe.unet

    @property
    def device(self) -> torch.device:
        return self.pipe.unet.device

    @property
    def image_size(self) -> int:
        """Side of the pictures it draws, in pixels."""
        return int(self.pipe.unet.config.sample_size * self.pipe.vae_scale_factor)

    @property
    def text_encoder_weights(self) -> dict[str, Tensor]:
        """What decides the text states: the text encoder's weights by name."""
        return dict(self.pipe.text_encoder.named_parameters())

    @property
    def max_tokens(self) -> int:
        """Tokens of a prompt, start and end included."""
        return min(self.pipe.tokenizer.model_max_length, self.pipe.text_encoder.config.max_position_embeddings)

    def projections(self, roles: str = "kv") -> list[Projection]:
        """The maps that read text, found by role: keys and values of every cross-attention as wide as the text.

        Raises:
            ModelError: there are none.
        """
        width = self.pipe.text_encoder.config.hidden_size
        found = [
            Projection(f"{path}.to_{role}", role, module.get_submodule(f"to_{role}"))
            for path, module in self.denoiser.named_modules()
            if isinstance(module, Attention) and module.is_cross_attention and module.to_k.in_features == width
            for role in roles
        ]
        if not found:
            raise ModelError(
                f"{type(self.denoiser).__name__} has no cross-attention that reads text of width {width}; "
                "expected a Stable Diffusion 1.x or 2.x model. See: excise doctor --model M"
            )
        return found

    @torch.no_grad()
    def encode(self, texts: Sequence[str], subjects: Sequence[str | int | None] | None = None) -> TextStates:
        """Encode prompts in one batch and find their subjects.

        Args:
            texts: B prompts.
            subjects: for each prompt the words to look for; None means all of the prompt; a number n an empty subject
                after the first n characters, standing at the token before it (at the very front: the start token).

        Returns:
            States (B, L, d) in the dtype of the text encoder, with token positions.

        Raises:
            ConceptError: a prompt does not fit, or does not contain its subject.
        """
        tokenizer = self.pipe.tokenizer
        rows = tokenizer(list(texts)).input_ids
        looked_for = [
            t if s is None else t[:s] if isinstance(s, int) else s
            for t, s in zip(texts, subjects or [None] * len(texts), strict=True)
        ]
        inner = tokenizer(looked_for, add_special_tokens=False).input_ids
        spans = []
        for i, (text, row, words) in enumerate(zip(texts, rows, inner, strict=True)):
            if len(row) > self.max_tokens:
                raise ConceptError(
                    f"'{text[:60]}' has {len(row)} tokens; {self.max_tokens} fit; the end would be ignored. Shorten it."
                )
            end = len(row) - 1
            if subjects is not None and isinstance(subjects[i], str):
                spans.append((*find_subject(row[:end], words, text, looked_for[i]), end))
            else:  # the whole prompt, or what stands before an empty subject
                spans.append((min(1, len(words)), len(words), end))
        first, last, ends = (torch.tensor(column, dtype=torch.long) for column in zip(*spans, strict=True))
        return TextStates(self._states(texts), first, last, ends)

    def predict_noise(self, latents: Tensor, timestep: Tensor, states: Tensor) -> Tensor:
        """The noise in `latents` (B, C, H, W) at `timestep` (B,), whatever the model predicts (epsilon or v).

        For v-prediction, eps = sqrt(alpha_bar) v + sqrt(1 - alpha_bar) x_t (arXiv 2202.00512, appendix D).
        """
        output: Tensor = self.denoiser(latents, timestep, encoder_hidden_states=states).sample
        kind = self.pipe.scheduler.config.prediction_type
        if kind == "epsilon":
            return output
        if kind != "v_prediction":
            raise ModelError(f"the scheduler predicts '{kind}'; expected epsilon or v_prediction.")
        alpha = self.pipe.scheduler.alphas_cumprod.to(latents.device, torch.float32)[timestep.long()].view(-1, 1, 1, 1)
        return (alpha.sqrt() * output + (1 - alpha).sqrt() * latents).to(output.dtype)

    @torch.no_grad()
    def batches(
        self, requests: Sequence[Sequence[Request]], *, steps: int, guidance: float
    ) -> Iterator[list[Image.Image]]:
        """Draw batch after batch; every distinct prompt is encoded once for all of them.

        Args:
            requests: batches of (prompt, seed). An image starts from a CPU generator of its own, whatever its batch.
        """
        self.pipe.set_progress_bar_config(disable=True)
        distinct = list(dict.fromkeys([*(prompt for batch in requests for prompt, _ in batch), ""]))
        states = self._states(distinct)
        row = {prompt: i for i, prompt in enumerate(distinct)}
        for batch in requests:
            yield self.pipe(
                prompt_embeds=states[[row[prompt] for prompt, _ in batch]],
                negative_prompt_embeds=states[[row[""]] * len(batch)],
                generator=[torch.Generator("cpu").manual_seed(seed) for _, seed in batch],
                num_inference_steps=steps,
                guidance_scale=guidance,
            ).images

    def sample(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        *,
        steps: int,
        guidance: float,
        batch: int,
        progress: Progress | None = None,
    ) -> list[Image.Image]:
        """One image a prompt, all in memory; image i has the seed `seeds[i]`."""
        asked = list(zip(prompts, seeds, strict=True))
        images: list[Image.Image] = []
        for drawn in self.batches(split(asked, batch), steps=steps, guidance=guidance):
            images += drawn
            if progress:
                progress(len(images), len(prompts))
        return images

    def _states(self, texts: Sequence[str]) -> Tensor:
        """(B, L, d): exactly what the pipeline hands to its UNet."""
        encoder = self.pipe.text_encoder
        ids = self.pipe.tokenizer(
            list(texts), padding="max_length", truncation=True, max_length=self.max_tokens, return_tensors="pt"
        ).input_ids
        return torch.cat([encoder(part.to(encoder.device))[0] for part in ids.split(ENCODE_BATCH)])
