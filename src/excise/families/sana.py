"""SANA: a Gemma text encoder, projected and normed once, read by the cross-attention of a linear transformer; flow.

What `attn2.to_k` and `attn2.to_v` read is `caption_norm(caption_projection(states))`, one fixed map of the encoder's
states for all blocks (arXiv 2410.10629, section 2.3). `TextStates` holds its output, with padding masked. The pipeline
puts a long instruction before every prompt, and passes on the states of the start token and of the prompt. The adapter
does the same, and leaves the instruction out where the tokenizer has no room for it (as in the built-in model).
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from excise.errors import ConceptError
from excise.families import capabilities as c
from excise.families.conditions import Condition, masked
from excise.families.networks import computes_in, module_in, parameters
from excise.families.pipeline import PipelineFamily
from excise.families.subjects import find_words, holding
from excise.families.text_tree import Tokens, run_on

LONGEST = 300  # tokens of a prompt, the pipeline's own default
ROW = 1024  # tokens in one row of the encoder's input, each with its own instruction


class Sana(PipelineFamily):
    """Adapter of a `SanaPipeline`, and of its sibling with a ControlNet."""

    name = "sana"
    provides = c.SEPARATE | {c.GUIDANCE, c.GUIDED_CALL}
    denoiser_name = "transformer"
    draws_with = "SanaPipeline"
    text_modules = ("caption_projection", "caption_norm")

    def __init__(self, pipe: Any) -> None:
        super().__init__(pipe)
        instruction: list[str] = inspect.signature(type(pipe).__call__).parameters["complex_human_instruction"].default
        fits = pipe.tokenizer is not None and (
            len(pipe.tokenizer("\n".join(instruction), verbose=False).input_ids) < pipe.tokenizer.model_max_length
        )
        self.instruction: list[str] | None = instruction if fits else None
        self._before = "\n".join(instruction) if fits else ""
        # With an instruction of n tokens the pipeline keeps the start token and everything from token n - 1 on.
        self._cut = max(0, len(pipe.tokenizer(self._before).input_ids) - 2) if fits else 0

    @property
    def _read_width(self) -> int | None:
        return int(self.denoiser.config.caption_channels)

    @property
    def text_width(self) -> int:
        return int(self.denoiser.config.cross_attention_dim)

    @property
    def text_encoder_weights(self) -> dict[str, Tensor]:
        encoder = parameters(self.pipe.text_encoder)
        for part in self.text_modules:
            encoder |= parameters(module_in(self.denoiser, part), f"{part}.")
        return dict(encoder)

    @property
    def max_tokens(self) -> int:
        self.check_encoders()
        return int(min(LONGEST, self.pipe.tokenizer.model_max_length))

    def _tokens(self, texts: Sequence[str], subjects: Sequence[str | int | None] | None) -> Tokens:
        rows = [self._found(t, s) for t, s in zip(texts, subjects or [None] * len(texts), strict=True)]
        places = torch.tensor([span for span, _ in rows], dtype=torch.long)
        # The denoiser reads the start token, then what stands behind the instruction.
        first, last, end = torch.where(places > 0, places + self._cut, places).unbind(dim=1)
        padded = pad_sequence([torch.tensor(ids) for _, ids in rows], batch_first=True)[..., None]
        read = torch.arange(padded.shape[1]) <= end[:, None]
        return Tokens(padded, first, last, end, read, hidden=self._cut)

    def _token_states(self, ids: Tensor, positions: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        states = run_on(self.pipe.text_encoder, ids[..., 0], positions, mask)[0]
        states = states.to(self.device, computes_in(self.denoiser))
        return self.denoiser.caption_norm(self.denoiser.caption_projection(states)), None

    @property
    def _row(self) -> int:
        return ROW

    def _predict(self, latents: Tensor, timestep: Tensor, condition: Condition) -> Tensor:
        scaled = timestep * self.denoiser.config.timestep_scale
        output: Tensor = self.denoiser(latents, timestep=scaled, **condition.inputs).sample
        # Some models predict their uncertainty in further channels, which the sampler ignores.
        return output[:, : latents.shape[1]]

    @torch.no_grad()
    def unconditional(self) -> Condition:
        """The empty prompt without the instruction, as in the pipeline."""
        return self._encoded([""], None)

    def _condition(self, texts: Sequence[str]) -> Condition:
        return self._encoded(texts, self.instruction)

    def _encoded(self, texts: Sequence[str], instruction: list[str] | None) -> Condition:
        states, mask, _, _ = self.pipe.encode_prompt(
            list(texts),
            do_classifier_free_guidance=False,
            device=self.device,
            max_sequence_length=self.max_tokens,
            complex_human_instruction=instruction,
        )
        return masked(states, mask)

    def _call(self, condition: Condition, unconditional: Condition) -> dict[str, Any]:
        side = self.image_size
        return {
            "prompt_embeds": condition.inputs["encoder_hidden_states"],
            "negative_prompt": None,
            "prompt_attention_mask": condition.inputs["encoder_attention_mask"],
            "negative_prompt_embeds": unconditional.inputs["encoder_hidden_states"],
            "negative_prompt_attention_mask": unconditional.inputs["encoder_attention_mask"],
            "height": side,
            "width": side,
            "use_resolution_binning": False,
        }

    def _found(self, text: str, subject: str | int | None) -> tuple[tuple[int, int, int], list[int]]:
        """First, last and end position of a subject among the tokens that the denoiser reads, and all tokens."""
        before, cut = self._before, self._cut
        prompt = text.lower().strip()  # as the pipeline does
        encoded = self.pipe.tokenizer(before + prompt, return_offsets_mapping=True)
        end = len(encoded.input_ids) - 1 - cut
        if end >= self.max_tokens:
            raise ConceptError(
                f"'{text[:60]}' has {end + 1} tokens; {self.max_tokens} fit; the end would be ignored. Shorten it."
            )
        begin, stop = _place(prompt, subject)
        at = [i - cut for i in holding(encoded.offset_mapping, begin + len(before), stop + len(before))]
        if not at:  # an empty subject: the token before it, at the very front the start token
            earlier = [i - cut for i, (a, b) in enumerate(encoded.offset_mapping) if b > a and b <= stop + len(before)]
            at = [max([0, *(i for i in earlier if i > 0)])]
        return (min(at), max(at), end), encoded.input_ids


def _place(prompt: str, subject: str | int | None) -> tuple[int, int]:
    """First and last character of the subject in the prompt; an empty subject ends where it begins."""
    if subject is None:
        return 0, len(prompt)
    if isinstance(subject, int):
        return subject, subject
    return find_words(prompt, subject.lower())
