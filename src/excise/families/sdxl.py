"""Stable Diffusion XL: two CLIP text encoders side by side in cross-attention, and the pooled prompt in every block.

Text reaches the UNet on two roads: token states (penultimate layers of both encoders, 768 + 1280 wide) through
`attn2.to_k` and `attn2.to_v`, and the second encoder's pooled prompt, joined with the picture's size and crop, through
`add_embedding.linear_1` into the time embedding (arXiv 2307.01952, section 2.2).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from excise.families import capabilities as c
from excise.families.conditions import Condition
from excise.families.encoder_layers import clip_layers
from excise.families.maps import EncoderLayer, Projection
from excise.families.networks import computes_in, module_in, parameters
from excise.families.pipeline import PipelineFamily
from excise.families.reading import first_inputs
from excise.families.subjects import padded_ids, subject_spans
from excise.families.text_tree import Tokens, run_on


class PooledUNet(PipelineFamily):
    """Adapter of a pipeline whose UNet reads token states, and a pooled prompt beside the picture's size and crop.

    Pictures are square, as large as the model draws them, not cropped.
    """

    def projections(self, roles: str = "kv") -> list[Projection]:
        """As in the base class; with role "p" also the map that reads the pooled prompt."""
        matches = super().projections(roles)
        if "p" in roles:
            matches.append(
                Projection("add_embedding.linear_1", "p", module_in(self.denoiser, "add_embedding.linear_1"))
            )
        return matches

    def _predict(self, latents: Tensor, timestep: Tensor, condition: Condition) -> Tensor:
        side = self.image_size
        sizes = torch.tensor([side, side, 0, 0, side, side], device=latents.device).expand(len(latents), 6)
        added = {"text_embeds": condition.inputs["text_embeds"], "time_ids": sizes.to(latents.dtype)}
        output: Tensor = self.denoiser(
            latents,
            timestep,
            encoder_hidden_states=condition.inputs["encoder_hidden_states"],
            added_cond_kwargs=added,
        ).sample
        return output

    def _call(self, condition: Condition, unconditional: Condition) -> dict[str, Any]:
        return {
            "prompt_embeds": condition.inputs["encoder_hidden_states"],
            "pooled_prompt_embeds": condition.inputs["text_embeds"],
            "negative_prompt_embeds": unconditional.inputs["encoder_hidden_states"],
            "negative_pooled_prompt_embeds": unconditional.inputs["text_embeds"],
        }


class StableDiffusionXL(PooledUNet):
    """Adapter of a `StableDiffusionXLPipeline` and its siblings."""

    name = "sdxl"
    provides = frozenset(c.CAPABILITIES) - c.STREAMS - {c.TOLD_BEHIND}
    encoder_names = ("text_encoder", "text_encoder_2")
    draws_with = "StableDiffusionXLPipeline"
    outlines = True

    @property
    def text_width(self) -> int:
        if len(self.text_encoders) < len(self.encoder_names):
            return int(self.denoiser.config.cross_attention_dim)
        return sum(int(e.config.hidden_size) for e in self.text_encoders.values())

    @property
    def text_encoder_weights(self) -> dict[str, Tensor]:
        both = enumerate(self.text_encoders.values(), 1)
        return {name: w for i, encoder in both for name, w in parameters(encoder, f"{i}.").items()}

    def encoder_layers(self) -> list[EncoderLayer]:
        self.check_encoders()
        # Token states are read one layer before the end; the last layer makes the pooled prompt from them.
        return [layer for name, e in self.text_encoders.items() for layer in clip_layers(name, e, unread=1)]

    @property
    def max_tokens(self) -> int:
        self.check_encoders()
        tokenizers = (self.pipe.tokenizer, self.pipe.tokenizer_2)
        encoders = self.text_encoders.values()
        return min(*(t.model_max_length for t in tokenizers), *(e.config.max_position_embeddings for e in encoders))

    def _tokens(self, texts: Sequence[str], subjects: Sequence[str | int | None] | None) -> Tokens:
        # Both tokenizers cut words alike; they differ in what they pad with.
        spans = subject_spans(self.pipe.tokenizer, texts, subjects, self.max_tokens)
        both = [
            padded_ids(t, self.pipe.maybe_convert_prompt(list(texts), t), self.max_tokens)
            for t in self.tokenizers.values()
        ]
        read = torch.ones_like(both[0], dtype=torch.bool)
        return Tokens(torch.stack(both, dim=-1), *spans, read, pooled=_pooling(self.pipe.text_encoder_2, both[1]))

    def _token_states(self, ids: Tensor, positions: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        encoders = self.text_encoders
        # Token states are what the last layer reads; to ask for all hidden states would keep those of all layers.
        last = {n: module_in(e, f"encoder.layers.{e.config.num_hidden_layers - 1}") for n, e in encoders.items()}
        with first_inputs(last) as read:
            outputs = [run_on(e, ids[..., i], positions, mask) for i, e in enumerate(encoders.values())]
        states = torch.cat([read[name].to(self.device) for name in encoders], dim=-1)
        second = encoders["text_encoder_2"]
        pooled = module_in(second, "text_projection")(outputs[1].last_hidden_state)
        return states.to(computes_in(second)), pooled

    @torch.no_grad()
    def unconditional(self) -> Condition:
        """The empty prompt, or zeros where the model was trained with zeros."""
        empty = self.condition([""])
        if not self.pipe.config.force_zeros_for_empty_prompt:
            return empty
        return Condition({name: torch.zeros_like(t) for name, t in empty.inputs.items()})

    def _condition(self, texts: Sequence[str]) -> Condition:
        states, _, pooled, _ = self.pipe.encode_prompt(
            list(texts), device=self.device, do_classifier_free_guidance=False
        )
        return Condition({"encoder_hidden_states": states, "text_embeds": pooled})


def _pooling(encoder: Any, ids: Tensor) -> Tensor:
    """(B,): the token of each prompt (B, L) whose state CLIP pools, the first end token.

    Early configurations name 2 as the end token; CLIP then takes the first token of the highest number.
    """
    end = encoder.config.eos_token_id
    return ids.argmax(dim=1) if end == 2 else (ids == end).int().argmax(dim=1)
