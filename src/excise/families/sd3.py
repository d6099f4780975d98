"""Stable Diffusion 3 and 3.5: two CLIPs and a T5 in joint attention over text and picture, and a pooled prompt; flow.

Text reaches the transformer through two doors. `context_embedder` takes the states of every token: first those of both
CLIPs side by side (the layer before the last, padded with zeros to T5's width), then those of T5. Pads are read, since
neither T5 nor the transformer is given a mask. `time_text_embed.text_embedder.linear_1` takes the pooled prompts of
both CLIPs into the modulation of every block. A model loaded without T5 reads zeros in the place of its states, which
the door's bias makes rows like any other. The `attn2` of some blocks of 3.5-medium is attention of the picture to
itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from excise.errors import ModelError
from excise.families import capabilities as c
from excise.families.conditions import Condition
from excise.families.subjects import subject_spans
from excise.families.text_known import KnownStates
from excise.families.text_states import Further, TextStates, Until
from excise.families.transformer import TransformerFamily

LONGEST = 256  # T5's tokens of a prompt, the pipeline's default
QK_NORMS = (None, "rms_norm")  # of Stable Diffusion 3, and of 3.5


class StableDiffusion3(TransformerFamily):
    """Adapter of a `StableDiffusion3Pipeline` and its siblings."""

    name = "sd3"
    provides = c.MIXED | {c.POOLED, c.GUIDED_CALL, c.DUAL_STREAM}
    encoder_names = ("text_encoder", "text_encoder_2", "text_encoder_3")
    optional_encoders = ("text_encoder_3",)
    draws_with = "StableDiffusion3Pipeline"
    doors = ("context_embedder",)
    arguments = MappingProxyType(
        {"prompt_embeds": "encoder_hidden_states", "pooled_prompt_embeds": "pooled_projections"}
    )
    pooled_door = "time_text_embed.text_embedder.linear_1"
    encode_batch = 16  # T5 reads every row of 256, padding included

    def __init__(self, pipe: Any) -> None:
        super().__init__(pipe)
        norm = self.denoiser.config.qk_norm
        if norm not in QK_NORMS:
            raise ModelError(
                f"the transformer norms its queries and keys by '{norm}' (qk_norm); expected none, as in Stable "
                "Diffusion 3, or rms_norm, as in 3.5: load a model of these."
            )

    @property
    def image_size(self) -> int:
        return int(self.denoiser.config.sample_size * self.pipe.vae_scale_factor)

    @property
    def max_tokens(self) -> int:
        """As the CLIPs take them; T5 takes more, but what they do not see is hardly drawn."""
        self.check_encoders()
        places = (self.text_encoders[n].config.max_position_embeddings for n in ("text_encoder", "text_encoder_2"))
        return int(min(self.pipe.tokenizer_max_length, *places))

    @property
    def _padded_tokens(self) -> int:
        """Number of T5's rows, or of the zeros in their place."""
        tokenizer = self.pipe.tokenizer_3
        return int(LONGEST if tokenizer is None else min(LONGEST, tokenizer.model_max_length))

    @torch.no_grad()
    def encode(
        self,
        texts: Sequence[str],
        subjects: Sequence[str | int | None] | None = None,
        until: Sequence[Until] | None = None,
        known: KnownStates | None = None,
    ) -> TextStates:
        # Both CLIPs cut words alike; they differ in what they pad with.
        spans = subject_spans(self.pipe.tokenizer, texts, subjects, self.max_tokens)
        parts = [Further(0, *spans), self._further(texts, subjects)]
        return self._encode_padded(texts, parts, until, known, start=True)

    def _further(self, texts: Sequence[str], subjects: Sequence[str | int | None] | None) -> Further:
        """The subjects among T5's tokens, which begin behind those of the CLIPs; nowhere in zeros."""
        begin = int(self.pipe.tokenizer_max_length)
        if "text_encoder_3" not in self.text_encoders:
            nowhere = torch.full((len(texts),), begin + self._padded_tokens)
            return Further(begin, nowhere, nowhere, nowhere)
        spans = subject_spans(self.pipe.tokenizer_3, texts, subjects, self._padded_tokens, start=0)
        return Further(begin, *(column + begin for column in spans))

    def _check_length(self, texts: Sequence[str]) -> None:
        if "text_encoder_3" in self.text_encoders:  # which reads what the CLIPs cut off
            subject_spans(self.pipe.tokenizer_3, texts, None, self._padded_tokens, start=0)
        else:
            super()._check_length(texts)

    def unconditional(self) -> Condition:
        return self.condition([""])

    def _condition(self, texts: Sequence[str]) -> Condition:
        states, _, pooled, _ = self.pipe.encode_prompt(
            prompt=list(texts),
            prompt_2=None,
            prompt_3=None,
            device=self.device,
            do_classifier_free_guidance=False,
            max_sequence_length=self._padded_tokens,
        )
        return Condition({"encoder_hidden_states": states, "pooled_projections": pooled})

    def _predict(self, latents: Tensor, timestep: Tensor, condition: Condition) -> Tensor:
        output: Tensor = self.denoiser(latents, timestep=timestep, **condition.inputs).sample
        return output
