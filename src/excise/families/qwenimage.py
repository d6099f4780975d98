"""Qwen-Image: the last states of Qwen 2.5-VL behind an instruction, in joint attention over text and picture; flow.

The instruction is encoded and cut off by its number of tokens; the transformer reads the prompt and the five tokens
behind it, which in a causal encoder hold it too, and padding is masked. `txt_in` is the only door of the text; it reads
what `txt_norm` gives. Guidance has a second half where there is a negative prompt, be it a space, and the pipeline then
gives every packed token the norm that it has in the prediction of the prompt.
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
from excise.families.chat import Template, check_cut, template_tokens
from excise.families.conditions import Condition
from excise.families.networks import computes_in, module_in
from excise.families.qwen import QwenFamily
from excise.families.text_tree import Tokens, run_on
from excise.families.transformer import packed, unpacked

NEGATIVE = " "  # the prompt of the second half of guidance, as the pipeline's documentation has it


class QwenImage(QwenFamily):
    """Adapter of a `QwenImagePipeline`."""

    name = "qwenimage"
    provides = c.MIXED
    draws_with = "QwenImagePipeline"
    text_modules = ("txt_norm",)
    doors = ("txt_in",)
    arguments = MappingProxyType(
        {"prompt_embeds": "encoder_hidden_states", "prompt_embeds_mask": "encoder_hidden_states_mask"}
    )
    encode_batch = 32  # the pipeline keeps all layers of all rows

    def __init__(self, pipe: Any) -> None:
        super().__init__(pipe)
        if pipe.tokenizer is not None:
            check_cut(pipe.tokenizer, pipe.prompt_template_encode.partition("{}")[0], self._cut)
        if self.denoiser.config.guidance_embeds:
            raise ModelError(
                "the transformer takes guidance as an input (guidance_embeds), which no known model of Qwen-Image "
                "does; load the configuration that came with the model."
            )

    @property
    def _row(self) -> int:
        return self.max_tokens + self._cut

    @cached_property
    def _template(self) -> Template:
        return Template.of(self.pipe.prompt_template_encode.format, self._cut)

    def _tokens(self, texts: Sequence[str], subjects: Sequence[str | int | None] | None) -> Tokens:
        return template_tokens(self.pipe.tokenizer, texts, subjects, self._template, self.max_tokens)

    def _token_states(self, ids: Tensor, positions: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        options = {"output_hidden_states": True, "use_cache": False, "logits_to_keep": 1}
        states = run_on(self.pipe.text_encoder, ids[..., 0], positions, mask, **options).hidden_states[-1]
        return module_in(self.denoiser, "txt_norm")(states.to(self.device, computes_in(self.denoiser))), None

    @torch.no_grad()
    def unconditional(self) -> Condition:
        return self._condition([NEGATIVE])

    def _condition(self, texts: Sequence[str]) -> Condition:
        states, mask = self.pipe.encode_prompt(list(texts), device=self.device, max_sequence_length=self.max_tokens)
        if mask is None:  # where there is no padding
            mask = torch.ones(states.shape[:2], dtype=torch.long, device=states.device)
        inputs = {"encoder_hidden_states": states, "encoder_hidden_states_mask": mask}
        return Condition(inputs, masks={"encoder_hidden_states": "encoder_hidden_states_mask"})

    def _predict(self, latents: Tensor, timestep: Tensor, condition: Condition) -> Tensor:
        b, _, height, width = latents.shape
        mask = condition.inputs["encoder_hidden_states_mask"]
        output: Tensor = self.denoiser(
            packed(latents),
            timestep=timestep.to(latents.dtype) / 1000,
            encoder_hidden_states=condition.inputs["encoder_hidden_states"],
            encoder_hidden_states_mask=None if bool(mask.all()) else mask,
            img_shapes=[[(1, height // 2, width // 2)]] * b,
        ).sample
        return unpacked(output, height, width)

    def _guidance(self, scale: float) -> dict[str, Any]:
        """As in the base class; without guidance the pipeline complains of a negative prompt."""
        off = {"negative_prompt_embeds": None, "negative_prompt_embeds_mask": None}
        return {"true_cfg_scale": scale, **(off if scale <= 1 else {})}
