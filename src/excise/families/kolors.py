"""Kolors: the UNet of SDXL behind one linear map of the states of ChatGLM 3, and its pooled prompt in every block.

Text reaches the UNet on two roads: `encoder_hid_proj` takes the layer before the last of every token, for `attn2.to_k`
and `attn2.to_v` of all blocks; `add_embedding.linear_1` takes the last token's state in the last layer, beside the
picture's size and crop. `TextStates` holds what the first map gives, as keys and values read it.

The tokenizer pads on the left. Padding attends to the whole prompt, so it holds the concept, and the UNet reads it. To
cross-attention the order of tokens is nothing: here each prompt stands first, behind its two special tokens, and its
padding last, so that what holds the concept follows it, as in CLIP.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from excise.errors import ModelError
from excise.families import capabilities as c
from excise.families.conditions import Condition
from excise.families.maps import Projection, WeightMap
from excise.families.networks import computes_in, module_in, parameters
from excise.families.padded_text import Padded, encode_padded
from excise.families.sdxl import PooledUNet
from excise.families.subjects import subject_spans
from excise.families.text_known import KnownStates
from excise.families.text_states import Further, TextStates, Until

LONGEST = 256  # tokens of a prompt, which the pipeline always pads to
PREFIX = 2  # special tokens before every prompt
DOOR = "encoder_hid_proj"
UNREAD = "output_layer"  # of ChatGLM, which gives words


class Kolors(PooledUNet):
    """Adapter of a `KolorsPipeline` and its sibling for img2img."""

    name = "kolors"
    provides = c.SEPARATE | {c.POOLED, c.GUIDANCE, c.GUIDED_CALL, c.TOLD_BEHIND}
    draws_with = "KolorsPipeline"
    text_modules = (DOOR,)
    encode_batch = 16  # the pipeline keeps all layers of all rows

    def __init__(self, pipe: Any) -> None:
        super().__init__(pipe)
        if (kind := self.denoiser.config.encoder_hid_dim_type) != "text_proj":
            raise ModelError(
                f"the UNet of this KolorsPipeline takes its text by '{kind}'; expected 'text_proj', one linear map of "
                "ChatGLM's states; load the UNet that belongs to the model."
            )

    @property
    def _read_width(self) -> int | None:
        return int(self.denoiser.config.encoder_hid_dim)

    @property
    def text_width(self) -> int:
        return int(self.denoiser.config.cross_attention_dim)

    @property
    def max_tokens(self) -> int:
        return LONGEST

    @property
    def text_encoder_weights(self) -> dict[str, Tensor]:
        encoder = {n: w for n, w in parameters(self.pipe.text_encoder).items() if not n.startswith(f"{UNREAD}.")}
        return {**encoder, **parameters(module_in(self.denoiser, DOOR), f"{DOOR}.")}

    def projections(self, roles: str = "kv") -> list[Projection]:
        """As in the base class; with role "e" also the map in front of all keys and values."""
        first = [Projection(DOOR, "e", module_in(self.denoiser, DOOR))] if "e" in roles else []
        return [*first, *super().projections(roles)]

    def maps(self, role: str) -> list[WeightMap]:
        return [m for m in super().maps(role) if m.path != f"text_encoder.{UNREAD}"]

    @torch.no_grad()
    def encode(
        self,
        texts: Sequence[str],
        subjects: Sequence[str | int | None] | None = None,
        until: Sequence[Until] | None = None,
        known: KnownStates | None = None,
    ) -> TextStates:
        self._check_encodes()
        spans = subject_spans(self.pipe.tokenizer, texts, subjects, LONGEST, start=PREFIX, ends=False)
        how = Padded(self._encoded, self.pipe, LONGEST, self.encode_batch, start=True)
        return encode_padded(how, texts, [Further(0, *spans)], until, known)

    def _encoded(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        inputs = self._condition(texts).inputs
        states = inputs["encoder_hidden_states"].to(self.device, computes_in(self.denoiser))
        return module_in(self.denoiser, DOOR)(states), inputs["text_embeds"]

    def unconditional(self) -> Condition:
        """The empty prompt: the pipeline needs a negative prompt where its configuration asks for zeros."""
        return self.condition([""])

    def _condition(self, texts: Sequence[str]) -> Condition:
        states, _, pooled, _ = self.pipe.encode_prompt(
            list(texts), device=self.device, do_classifier_free_guidance=False, max_sequence_length=LONGEST
        )
        lengths = torch.tensor([len(ids) for ids in self.pipe.tokenizer(list(texts), verbose=False).input_ids])
        order = (torch.arange(LONGEST) - lengths.clamp(max=LONGEST)[:, None]) % LONGEST
        ordered = states.gather(1, order[..., None].to(states.device).expand_as(states))
        return Condition({"encoder_hidden_states": ordered, "text_embeds": pooled})
