"""Stable Diffusion 1.x and 2.x: one CLIP text encoder, read by the cross-attention of a UNet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from excise.families import capabilities as c
from excise.families.conditions import Condition
from excise.families.encoder_layers import clip_layers
from excise.families.maps import EncoderLayer
from excise.families.networks import parameters
from excise.families.pipeline import PipelineFamily
from excise.families.subjects import padded_ids, subject_spans
from excise.families.text_tree import Tokens, run_on


class StableDiffusion(PipelineFamily):
    """Adapter of a `StableDiffusionPipeline`, and of its siblings for other uses."""

    name = "sd"
    provides = frozenset(c.CAPABILITIES) - c.STREAMS - {c.POOLED, c.TOLD_BEHIND}
    draws_with = "StableDiffusionPipeline"
    outlines = True

    @property
    def text_width(self) -> int:
        encoder = self.pipe.text_encoder
        return int(self.denoiser.config.cross_attention_dim if encoder is None else encoder.config.hidden_size)

    @property
    def text_encoder_weights(self) -> dict[str, Tensor]:
        return dict(parameters(self.pipe.text_encoder))

    def encoder_layers(self) -> list[EncoderLayer]:
        self.check_encoders()
        return clip_layers("text_encoder", self.pipe.text_encoder)

    @property
    def max_tokens(self) -> int:
        self.check_encoders()
        return min(self.pipe.tokenizer.model_max_length, self.pipe.text_encoder.config.max_position_embeddings)

    def _tokens(self, texts: Sequence[str], subjects: Sequence[str | int | None] | None) -> Tokens:
        spans = subject_spans(self.pipe.tokenizer, texts, subjects, self.max_tokens)
        ids = padded_ids(self.pipe.tokenizer, texts, self.max_tokens)
        return Tokens(ids[..., None], *spans, read=torch.ones_like(ids, dtype=torch.bool))

    def _token_states(self, ids: Tensor, positions: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        return run_on(self.pipe.text_encoder, ids[..., 0], positions, mask)[0], None

    def _predict(self, latents: Tensor, timestep: Tensor, condition: Condition) -> Tensor:
        output: Tensor = self.denoiser(latents, timestep, **condition.inputs).sample
        return output

    def unconditional(self) -> Condition:
        return self.condition([""])

    def _condition(self, texts: Sequence[str]) -> Condition:
        encoder = self.pipe.text_encoder
        ids = padded_ids(self.pipe.tokenizer, texts, self.max_tokens)
        return Condition({"encoder_hidden_states": encoder(ids.to(self._device_of(encoder)))[0]})

    def _call(self, condition: Condition, unconditional: Condition) -> dict[str, Any]:
        return {
            "prompt_embeds": condition.inputs["encoder_hidden_states"],
            "negative_prompt_embeds": unconditional.inputs["encoder_hidden_states"],
        }
