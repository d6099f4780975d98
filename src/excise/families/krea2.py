"""Krea 2: several layers of Qwen 3-VL, fused over layers and tokens, then one stream of text and picture; flow.

A row holds several layers of a token's states. `text_fusion` attends over the layers of each token, sums them up, and
attends over the tokens of the prompt; `txt_in` then takes each row into the stream. Its first linear map is the only
door of the text, and what it reads is one fixed map of all states of a prompt: every row changes with every word, so
prompts are encoded whole. The pipeline pads between the prompt and the five tokens behind it, and masks the padding.
Guidance is the prediction of the prompt plus a scale times the difference, so that no guidance is a scale of zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from excise.errors import ModelError
from excise.families import capabilities as c
from excise.families.base import split
from excise.families.chat import Template, check_cut, template_tokens
from excise.families.conditions import Condition, masked
from excise.families.maps import MapInput
from excise.families.networks import computes_in, module_in
from excise.families.progress import encoded
from excise.families.qwen import QwenFamily
from excise.families.reading import PREDICT_BATCH
from excise.families.text_known import KnownStates
from excise.families.text_states import TextStates, Until
from excise.families.text_tree import Tokens
from excise.families.transformer import packed, unpacked

DISTILLED_MU = 1.15  # the logarithm of the shift of the noise schedule of a distilled model, as the pipeline has it


class Krea2(QwenFamily):
    """Adapter of a `Krea2Pipeline`."""

    name = "krea2"
    provides = c.MIXED | {c.SINGLE_STREAM}
    draws_with = "Krea2Pipeline"
    text_modules = ("text_fusion", "txt_in.norm")
    doors = ("txt_in.linear_1",)
    arguments = MappingProxyType(
        {"prompt_embeds": "encoder_hidden_states", "prompt_embeds_mask": "encoder_attention_mask"}
    )
    streams = MappingProxyType({"text_fusion": "refiner", "transformer_blocks": "shared"})
    encode_batch = 16  # the pipeline keeps all layers of all rows

    def __init__(self, pipe: Any) -> None:
        super().__init__(pipe)
        if pipe.tokenizer is not None:
            check_cut(pipe.tokenizer, pipe.prompt_template_encode_prefix, self._cut)
        taken, expected = len(pipe.text_encoder_select_layers), self.denoiser.config.num_text_layers
        if taken != expected:
            raise ModelError(
                f"the pipeline takes {taken} layers of the text encoder (text_encoder_select_layers), but the "
                f"transformer fuses {expected}; load the model_index.json that came with the model."
            )
        if pipe.patch_size != 2:
            raise ModelError(f"the pipeline packs patches of {pipe.patch_size} x {pipe.patch_size}; expected 2 x 2.")

    @property
    def _mu(self) -> float | None:
        return DISTILLED_MU if self.pipe.config.is_distilled else None

    @cached_property
    def _template(self) -> Template:
        before, after = self.pipe.prompt_template_encode_prefix, self.pipe.prompt_template_encode_suffix
        return Template.of(lambda prompt: before + prompt + after, self._cut)

    def _tokens(self, texts: Sequence[str], subjects: Sequence[str | int | None] | None) -> Tokens:
        return template_tokens(self.pipe.tokenizer, texts, subjects, self._template, self.max_tokens)

    @torch.no_grad()
    def encode(
        self,
        texts: Sequence[str],
        subjects: Sequence[str | int | None] | None = None,
        until: Sequence[Until] | None = None,
        known: KnownStates | None = None,
    ) -> TextStates:
        self._check_encodes()
        tokens = self._tokens(texts, subjects)
        fusion, norm = (module_in(self.denoiser, path) for path in self.text_modules)
        rows, read = list[Tensor](), list[Tensor]()
        for part in split(list(texts), PREDICT_BATCH):
            inputs = self._condition(part).to(self.device, computes_in(self.denoiser)).inputs
            mask = inputs["encoder_attention_mask"]
            rows.append(norm(fusion(inputs["encoder_hidden_states"], attention_mask=mask[:, None, None])))
            read.append(mask)
            encoded(sum(map(len, read)), len(texts))
        states = torch.cat(rows)
        behind = len(self.pipe.tokenizer(self.pipe.prompt_template_encode_suffix).input_ids)
        end = torch.full_like(tokens.end, states.shape[1] - behind)
        spans = tokens.shown(tokens.first), tokens.shown(tokens.last), end
        return TextStates.dense(states, *spans, read=torch.cat(read), start=False)

    @torch.no_grad()
    def unconditional(self) -> Condition:
        return self._condition([""])

    def _condition(self, texts: Sequence[str]) -> Condition:
        states, mask = self.pipe.encode_prompt(list(texts), device=self.device, max_sequence_length=self.max_tokens)
        return masked(states, mask)

    def _predict(self, latents: Tensor, timestep: Tensor, condition: Condition) -> Tensor:
        height, width = latents.shape[-2:]
        length = condition.inputs["encoder_hidden_states"].shape[1]
        output: Tensor = self.denoiser(
            packed(latents),
            timestep=(timestep / 1000).to(latents.dtype),
            position_ids=self.pipe.prepare_position_ids(length, height // 2, width // 2, latents.device),
            **condition.inputs,
        ).sample
        return unpacked(output, height, width)

    def _map_input(self, path: str, rows: Tensor, condition: Condition) -> MapInput:
        """As in the base class; the blocks over layers read the layers of one token as if they were a prompt."""
        if not path.startswith("text_fusion.layerwise_blocks"):
            return super()._map_input(path, rows, condition)
        mask = condition.inputs["encoder_attention_mask"].to(rows.device)
        return MapInput(rows.reshape(len(mask), -1, rows.shape[-1]), mask.repeat_interleave(rows.shape[1], dim=1))

    def _guidance(self, scale: float) -> dict[str, Any]:
        return {"guidance_scale": max(scale - 1, 0)}  # the pipeline adds its scale to the prediction of the prompt
