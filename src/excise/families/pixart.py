"""PixArt-Sigma: T5 states, projected once, read by the cross-attention of every block of a transformer; epsilon.

What `attn2.to_k` and `attn2.to_v` read is `caption_projection(states)`, one fixed map of the encoder's states for all
blocks (arXiv 2403.04692). `TextStates` holds its output, with padding masked, so closed forms are exact in every block.
Prompts are in lower case and without spaces around them, as the pipeline has them with `clean_caption=False`; cleaning
acts only where bs4 and ftfy are installed, and the same call would read other words on another machine. Of the output's
channels the first half is the noise, the other its variance, which the sampler ignores.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from excise.errors import ModelError
from excise.families import capabilities as c
from excise.families.conditions import Condition, masked
from excise.families.networks import computes_in
from excise.families.pipeline import PipelineFamily
from excise.families.subjects import subject_spans
from excise.families.text_known import KnownStates
from excise.families.text_states import TextStates, Until

LONGEST = 300  # tokens of a prompt, the pipeline's default


class PixArt(PipelineFamily):
    """Adapter of a `PixArtSigmaPipeline`, and of its sibling with perturbed attention."""

    name = "pixart"
    provides = c.SEPARATE | {c.GUIDANCE, c.GUIDED_CALL}
    denoiser_name = "transformer"
    draws_with = "PixArtSigmaPipeline"
    text_modules = ("caption_projection",)

    def __init__(self, pipe: Any) -> None:
        super().__init__(pipe)
        if self.denoiser.use_additional_conditions:
            raise ModelError(
                "the transformer takes the picture's size and shape as conditions (use_additional_conditions), as "
                "PixArt-Alpha does at 1024 pixels; expected one of PixArt-Sigma, which takes none: load such a model."
            )

    @property
    def _read_width(self) -> int | None:
        return int(self.denoiser.config.caption_channels)

    @property
    def text_width(self) -> int:
        return int(self.denoiser.config.cross_attention_dim)

    @property
    def max_tokens(self) -> int:
        self.check_encoders()
        return int(min(LONGEST, self.pipe.tokenizer.model_max_length))

    @torch.no_grad()
    def encode(
        self,
        texts: Sequence[str],
        subjects: Sequence[str | int | None] | None = None,
        until: Sequence[Until] | None = None,
        known: KnownStates | None = None,
    ) -> TextStates:
        prompts = [_as_read(t, s) for t, s in zip(texts, subjects or [None] * len(texts), strict=True)]
        spans = subject_spans(
            self.pipe.tokenizer, [text for text, _ in prompts], [s for _, s in prompts], self.max_tokens, start=0
        )
        inputs = self.condition(texts).inputs
        states = inputs["encoder_hidden_states"].to(self.device, computes_in(self.denoiser))
        read = inputs["encoder_attention_mask"].bool()
        return TextStates.dense(self.denoiser.caption_projection(states), *spans, read=read, start=False)

    def unconditional(self) -> Condition:
        return self.condition([""])

    def _condition(self, texts: Sequence[str]) -> Condition:
        states, mask, _, _ = self.pipe.encode_prompt(
            list(texts),
            do_classifier_free_guidance=False,
            device=self.device,
            clean_caption=False,
            max_sequence_length=self.max_tokens,
        )
        return masked(states, mask)

    def _predict(self, latents: Tensor, timestep: Tensor, condition: Condition) -> Tensor:
        unused = {"resolution": None, "aspect_ratio": None}
        output: Tensor = self.denoiser(latents, timestep=timestep, added_cond_kwargs=unused, **condition.inputs).sample
        return output[:, : latents.shape[1]]

    def _call(self, condition: Condition, unconditional: Condition) -> dict[str, Any]:
        return {
            "prompt_embeds": condition.inputs["encoder_hidden_states"],
            "negative_prompt": None,
            "prompt_attention_mask": condition.inputs["encoder_attention_mask"],
            "negative_prompt_embeds": unconditional.inputs["encoder_hidden_states"],
            "negative_prompt_attention_mask": unconditional.inputs["encoder_attention_mask"],
            "height": self.image_size,
            "width": self.image_size,
            "use_resolution_binning": False,
        }


def _as_read(text: str, subject: str | int | None) -> tuple[str, str | int | None]:
    """A prompt as the pipeline hands it to the tokenizer, and its subject in that."""
    if isinstance(subject, int):
        subject = len(text[:subject].lower().lstrip())
    elif subject is not None:
        subject = subject.lower()
    return text.lower().strip(), subject
