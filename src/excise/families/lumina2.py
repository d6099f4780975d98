"""Lumina-Image 2.0: a Gemma 2 that reads a system prompt first, then one stream of text and picture; flow.

The transformer reads the layer before the last of every token: those of the system prompt, and those of the prompt
behind it, which in a causal encoder hold the concept from its word on. `time_caption_embed.caption_embedder` (a norm,
then a linear map) is the only door of the text; `context_refiner` mixes its rows before they meet the picture, and
padding is cut out there. The unconditional half is the empty prompt without the system prompt. The network's time runs
backwards, and so does the sign of its output. The pipeline gives a guided prediction the length that the prediction of
the prompt has, row by row of the latents.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType

import torch
from torch import Tensor

from excise.families import capabilities as c
from excise.families.chat import Template, template_tokens
from excise.families.conditions import Condition, masked
from excise.families.maps import MapInput
from excise.families.text_tree import Tokens
from excise.families.transformer import TransformerFamily

NORM = "time_caption_embed.caption_embedder.0"


class Lumina2(TransformerFamily):
    """Adapter of a `Lumina2Pipeline`."""

    name = "lumina2"
    provides = c.MIXED | {c.SINGLE_STREAM}
    draws_with = "Lumina2Pipeline"
    longest = 256
    text_modules = (NORM,)
    doors = ("time_caption_embed.caption_embedder.1",)
    arguments = MappingProxyType(
        {"prompt_embeds": "encoder_hidden_states", "prompt_attention_mask": "encoder_attention_mask"}
    )
    streams = MappingProxyType({"noise_refiner": "self", "context_refiner": "refiner", "layers": "shared"})

    @property
    def image_size(self) -> int:
        # The pipeline takes its factor to be 8 with every autoencoder.
        return int(self.denoiser.config.sample_size * self.pipe.vae_scale_factor)

    @property
    def _picture_tokens(self) -> int:
        return self._channels  # what the pipeline shifts its schedule by, the same for pictures of all sizes

    def _tokens(self, texts: Sequence[str], subjects: Sequence[str | int | None] | None) -> Tokens:
        before = f"{self.pipe.system_prompt} <Prompt Start> "
        template = Template(lambda prompt: before + prompt, len(before))
        return template_tokens(self.pipe.tokenizer, texts, subjects, template, self.max_tokens)

    def _token_states(self, ids: Tensor, positions: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        return self._before_last(ids, positions, mask), None

    @torch.no_grad()
    def unconditional(self) -> Condition:
        """The empty prompt without the system prompt, as in the pipeline."""
        self._check_encodes()
        _, _, states, mask = self.pipe.encode_prompt(
            "", negative_prompt="", device=self.device, max_sequence_length=self.max_tokens
        )
        return masked(states, mask)

    def _condition(self, texts: Sequence[str]) -> Condition:
        states, mask, _, _ = self.pipe.encode_prompt(
            list(texts),
            do_classifier_free_guidance=False,
            device=self.device,
            max_sequence_length=self.max_tokens,
        )
        return masked(states, mask)

    def _predict(self, latents: Tensor, timestep: Tensor, condition: Condition) -> Tensor:
        levels = self.pipe.scheduler.config.num_train_timesteps
        output: Tensor = self.denoiser(latents, timestep=1 - timestep / levels, **condition.inputs).sample
        return -output

    def _map_input(self, path: str, rows: Tensor, condition: Condition) -> MapInput:
        """As in the base class; in the shared stream the picture follows on the last row of each prompt."""
        if not path.startswith("layers."):
            return super()._map_input(path, rows, condition)
        mask = condition.inputs["encoder_attention_mask"].bool().to(rows.device)
        own = mask.sum(dim=1, keepdim=True)
        _, height, width = self.latent_shape
        place = own + torch.arange(height * width // 4, device=rows.device)
        picture = rows.gather(1, place[..., None].expand(-1, -1, rows.shape[-1]))
        longest = min(mask.shape[1], rows.shape[1])
        return MapInput(rows[:, :longest], mask[:, :longest], picture)
