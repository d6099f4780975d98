"""Z-Image (base, Turbo): a Qwen 3 chat, an own stack of blocks for the text, then one stream of picture and text; flow.

The transformer reads the layer before the last of every token of the turn: the template's three before the prompt, the
prompt, and five behind it, which in a causal encoder hold it too. `cap_embedder` (a norm, then a linear map) is the
only door of the text; `context_refiner` mixes its rows before they meet the picture. Rows up to the next multiple of 32
are a learned pad. The network's time runs backwards, and so does the sign of its output.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from excise.families import capabilities as c
from excise.families.chat import Template, chat_render, template_tokens
from excise.families.conditions import Condition
from excise.families.encoder_layers import decoder_layers
from excise.families.maps import EncoderLayer, MapInput
from excise.families.text_tree import Tokens
from excise.families.transformer import TransformerFamily

STEP = 32  # the transformer pads a turn with a learned row up to a multiple of this


class ZImage(TransformerFamily):
    """Adapter of a `ZImagePipeline`."""

    name = "zimage"
    provides = c.MIXED | {c.TEXT_MLP, c.SINGLE_STREAM}
    draws_with = "ZImagePipeline"
    text_modules = ("cap_embedder.0",)
    doors = ("cap_embedder.1",)
    streams = MappingProxyType({"noise_refiner": "self", "context_refiner": "refiner", "layers": "shared"})

    @cached_property
    def _template(self) -> Template:
        return Template.of(chat_render(self.pipe.tokenizer, add_generation_prompt=True, enable_thinking=True))

    def _tokens(self, texts: Sequence[str], subjects: Sequence[str | int | None] | None) -> Tokens:
        return template_tokens(self.pipe.tokenizer, texts, subjects, self._template, self.max_tokens)

    def _token_states(self, ids: Tensor, positions: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        return self._before_last(ids, positions, mask), None

    def encoder_layers(self) -> list[EncoderLayer]:
        self.check_encoders()
        return decoder_layers("text_encoder", self.pipe.text_encoder, unread=1)

    @torch.no_grad()
    def unconditional(self) -> Condition:
        return self._condition([""])

    def _condition(self, texts: Sequence[str]) -> Condition:
        states, _ = self.pipe.encode_prompt(
            list(texts),  # the pipeline writes its template into the list
            device=self.device,
            do_classifier_free_guidance=False,
            max_sequence_length=self.max_tokens,
        )
        lengths = torch.tensor([len(rows) for rows in states])
        padded = pad_sequence(list(states), batch_first=True)
        mask = (torch.arange(padded.shape[1]) < lengths[:, None]).to(padded.device)
        return Condition({"cap_feats": padded, "cap_mask": mask}, masks={"cap_feats": "cap_mask"})

    def _predict(self, latents: Tensor, timestep: Tensor, condition: Condition) -> Tensor:
        pictures = list(latents[:, :, None].unbind())
        output = self.denoiser(pictures, (1000 - timestep) / 1000, _rows(condition)).sample
        return -torch.stack(list(output))[:, :, 0]

    def _map_input(self, path: str, rows: Tensor, condition: Condition) -> MapInput:
        """As in the base class; of learned pads nothing is returned.

        `cap_embedder` reads the rows of all prompts in one, each padded by its last row. In the shared layers those of
        the picture stand before the text.
        """
        mask = condition.inputs["cap_mask"].bool().to(rows.device)
        picture = None
        if path.startswith("cap_embedder"):
            lengths = (mask.sum(dim=1) + STEP - 1) // STEP * STEP
            rows = pad_sequence(rows.split(lengths.tolist()), batch_first=True)
        elif path.startswith("layers"):
            tokens = self._picture_tokens
            picture, rows = rows[:, :tokens], rows[:, (tokens + STEP - 1) // STEP * STEP :]
        return MapInput(rows[:, : mask.shape[1]], mask, picture)

    def _call(self, condition: Condition, unconditional: Condition) -> dict[str, Any]:
        return {
            "prompt_embeds": _rows(condition),
            "negative_prompt_embeds": _rows(unconditional),
            "height": self.image_size,
            "width": self.image_size,
        }

    def _guidance(self, scale: float) -> dict[str, Any]:
        return {"guidance_scale": max(scale - 1, 0)}  # the pipeline adds its scale to the prediction of the prompt


def _rows(condition: Condition) -> list[Tensor]:
    """The states (L, d) of each prompt, without its padding."""
    inputs = condition.inputs
    return [rows[mask.bool()] for rows, mask in zip(inputs["cap_feats"], inputs["cap_mask"], strict=True)]
