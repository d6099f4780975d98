"""Chroma: T5 states in joint attention over text and picture, with FLUX's blocks and no pooled prompt; flow.

Text reaches the transformer through one door, `context_embedder`, which takes T5's state of every token. The pipeline
means its attention to see a prompt and one pad behind it, but hands over a mask of numbers, and numbers are added to
the logits: the pairs that the mask keeps gain one, and all pads are read. The adapter does the same. Latents are packed
into patches of 2 x 2.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from excise.families import capabilities as c
from excise.families.conditions import Condition
from excise.families.subjects import subject_spans
from excise.families.text_known import KnownStates
from excise.families.text_states import Further, TextStates, Until
from excise.families.transformer import TransformerFamily, packed, places, unpacked


class Chroma(TransformerFamily):
    """Adapter of a `ChromaPipeline` and its siblings."""

    name = "chroma"
    provides = c.MIXED | {c.DUAL_STREAM}
    draws_with = "ChromaPipeline"
    doors = ("context_embedder",)
    arguments = MappingProxyType({"prompt_embeds": "encoder_hidden_states", "prompt_attention_mask": "attention_mask"})
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
        spans = subject_spans(self.pipe.tokenizer, texts, subjects, self.max_tokens, start=0)
        return self._encode_padded(texts, [Further(0, *spans)], until, known)

    def unconditional(self) -> Condition:
        return self.condition([""])

    def _condition(self, texts: Sequence[str]) -> Condition:
        states, _, added, *_ = self.pipe.encode_prompt(
            prompt=list(texts),
            device=self.device,
            do_classifier_free_guidance=False,
            max_sequence_length=self.max_tokens,
        )
        return Condition({"encoder_hidden_states": states, "attention_mask": added})  # which masks nothing

    def _predict(self, latents: Tensor, timestep: Tensor, condition: Condition) -> Tensor:
        _, _, height, width = latents.shape
        states, added = condition.inputs["encoder_hidden_states"], condition.inputs["attention_mask"]
        rows = packed(latents)
        added = torch.cat([added, added.new_ones(rows.shape[:2])], dim=1)
        with _recomputed_with(self.denoiser, added):
            output: Tensor = self.denoiser(
                rows,
                encoder_hidden_states=states,
                timestep=timestep.to(latents.dtype) / 1000,
                txt_ids=latents.new_zeros(states.shape[1], 3),
                img_ids=places(height, width).to(latents),
                attention_mask=added,
            ).sample
        return unpacked(output, height, width)


@contextmanager
def _recomputed_with(denoiser: Any, added: Tensor) -> Iterator[None]:
    """Give single blocks their mask under gradient checkpointing, where diffusers leaves it out."""
    if not denoiser.gradient_checkpointing:
        yield
        return
    recompute = denoiser._gradient_checkpointing_func
    single = set(denoiser.single_transformer_blocks)

    def with_mask(block: nn.Module, *args: Any) -> Any:
        return recompute(block, *args, *([added] if block in single else []))

    denoiser._gradient_checkpointing_func = with_mask
    try:
        yield
    finally:
        denoiser._gradient_checkpointing_func = recompute
