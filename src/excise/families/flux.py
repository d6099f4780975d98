"""FLUX.1 (dev, schnell): T5 states and CLIP's pooled prompt, in joint attention over text and picture; flow.

Text reaches the transformer through two doors: `context_embedder` takes the T5 state of every token, pads included,
since neither T5 nor the transformer is given a mask; `time_text_embed.text_embedder.linear_1` takes CLIP's pooled
prompt into the modulation of every block. Latents are packed into patches of 2 x 2. Of dev the guidance is an input of
the denoiser, and schnell has none: both were distilled to draw without an unconditional half. Models that were not
(neither an input for guidance nor a schedule without dynamic shift) have both halves.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from excise.families import capabilities as c
from excise.families.conditions import Condition
from excise.families.encoder_layers import clip_layers, t5_layers
from excise.families.maps import EncoderLayer
from excise.families.subjects import subject_spans
from excise.families.text_known import KnownStates
from excise.families.text_states import Further, TextStates, Until
from excise.families.transformer import TransformerFamily, packed, places, unpacked

EMBEDDED_GUIDANCE = 3.5  # the pipeline's default, an input of the distilled denoiser


class Flux(TransformerFamily):
    """Adapter of a `FluxPipeline`."""

    name = "flux"
    provides = c.MIXED | {c.POOLED, c.TEXT_MLP, c.DUAL_STREAM}
    encoder_names = ("text_encoder", "text_encoder_2")
    draws_with = "FluxPipeline"
    doors = ("context_embedder",)
    arguments = MappingProxyType(
        {"prompt_embeds": "encoder_hidden_states", "pooled_prompt_embeds": "pooled_projections"}
    )
    pooled_door = "time_text_embed.text_embedder.linear_1"
    streams = MappingProxyType({"single_transformer_blocks": "shared"})
    packs = True
    encode_batch = 8  # T5 reads every row of 512, padding included

    @torch.no_grad()
    def encode(
        self,
        texts: Sequence[str],
        subjects: Sequence[str | int | None] | None = None,
        until: Sequence[Until] | None = None,
        known: KnownStates | None = None,
    ) -> TextStates:
        spans = subject_spans(self._prompt_tokenizer, texts, subjects, self.max_tokens, start=0)
        named = [(text, s) for text, s in zip(texts, subjects or (), strict=False) if isinstance(s, str)]
        if named and self.pipe.tokenizer is not None:  # CLIP reads less of a prompt, which must hold the subject
            prompts, names = zip(*named, strict=True)
            subject_spans(self.pipe.tokenizer, prompts, names, self.pipe.tokenizer.model_max_length)
        return self._encode_padded(texts, [Further(0, *spans)], until, known)

    def encoder_layers(self) -> list[EncoderLayer]:
        self.check_encoders()
        first, second = self.pipe.text_encoder, self.pipe.text_encoder_2
        return [*clip_layers("text_encoder", first), *t5_layers("text_encoder_2", second)]

    def encoder_spans(
        self, encoder: str, texts: Sequence[str], subjects: Sequence[str | int | None]
    ) -> tuple[Tensor, Tensor]:
        if encoder == "text_encoder_2":
            _, last, _ = subject_spans(self._prompt_tokenizer, texts, subjects, self.max_tokens, start=0)
            return last, torch.ones(len(texts), self.max_tokens, dtype=torch.bool)
        limit = self.pipe.tokenizer.model_max_length
        _, last, end = subject_spans(self.pipe.tokenizer, texts, subjects, limit)
        return last, torch.arange(limit) == end[:, None]  # the pooled prompt is the state of its end token

    def unconditional(self) -> Condition:
        return self.condition([""])

    @property
    def _prompt_tokenizer(self) -> Any:
        return self.pipe.tokenizer_2

    def _condition(self, texts: Sequence[str]) -> Condition:
        states, pooled, _ = self.pipe.encode_prompt(
            prompt=list(texts), prompt_2=None, device=self.device, max_sequence_length=self.max_tokens
        )
        return Condition({"encoder_hidden_states": states, "pooled_projections": pooled})

    def _predict(self, latents: Tensor, timestep: Tensor, condition: Condition) -> Tensor:
        b, _, height, width = latents.shape
        guided = self.denoiser.config.guidance_embeds
        output: Tensor = self.denoiser(
            packed(latents),
            timestep=timestep.to(latents.dtype) / 1000,
            guidance=torch.full((b,), EMBEDDED_GUIDANCE, device=latents.device) if guided else None,
            txt_ids=latents.new_zeros(condition.inputs["encoder_hidden_states"].shape[1], 3),
            img_ids=places(height, width).to(latents),
            **condition.inputs,
        ).sample
        return unpacked(output, height, width)

    @property
    def _distilled(self) -> bool:
        """Whether the model draws without an unconditional half: dev and schnell."""
        return bool(self.denoiser.config.guidance_embeds or not self.pipe.scheduler.config.get("use_dynamic_shifting"))

    def _guidance(self, scale: float) -> dict[str, Any]:
        return {"guidance_scale": EMBEDDED_GUIDANCE, "true_cfg_scale": 1.0 if self._distilled else scale}
