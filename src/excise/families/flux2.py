"""FLUX.2 (dev, klein): three layers of a decoder side by side, in joint attention over text and picture; flow.

Of every token of a turn the transformer reads three layers of the text encoder, one after the other in one row: of
Mistral 3 behind a system message in dev, of Qwen 3 in klein. `context_embedder` is the only door of the text. All 512
rows are read, padding included, for the transformer is given no mask; and padding behind a prompt holds what stands in
it, since it attends to the prompt. So the rows of whole prompts are those that the pipeline itself encodes; as far as
its subject, a prompt is encoded in a tree. Latents are patches of 2 x 2, whitened by the running figures of a batch
norm in the autoencoder. Of dev the guidance is an input of the denoiser; klein has two halves of guidance, and a
distilled one neither.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from excise.errors import ModelError
from excise.families import capabilities as c
from excise.families.chat import Template, chat_render, check_chat, template_tokens
from excise.families.conditions import Condition
from excise.families.maps import Projection, WeightMap
from excise.families.networks import walk
from excise.families.text_known import KnownStates
from excise.families.text_states import Further, TextStates, Until
from excise.families.text_tree import Tokens, run_on
from excise.families.transformer import TransformerFamily, patched, unpatched

EMBEDDED_GUIDANCE = 4.0  # the pipeline's default, an input of the distilled denoiser of dev
STEPS = 50, 4  # of the sampler, for which the noise schedule is told: the pipeline's default, and of a distilled model
FUSED = "to_qkv_mlp_proj"  # queries, keys, values and the first map of the MLP of a block with one stream


class Flux2(TransformerFamily):
    """Adapter of a `Flux2Pipeline` and of a `Flux2KleinPipeline`."""

    name = "flux2"
    provides = c.MIXED
    draws_with = "Flux2Pipeline"
    doors = ("context_embedder",)
    streams = MappingProxyType({"single_transformer_blocks": "shared"})
    encode_batch = 16  # the pipeline keeps all layers of all rows

    def __init__(self, pipe: Any) -> None:
        super().__init__(pipe)
        self._klein = any(kind.__name__.startswith("Flux2Klein") for kind in type(pipe).__mro__)
        if self._klein:
            self.draws_with = "Flux2KleinPipeline"
        call = inspect.signature(type(pipe).encode_prompt).parameters
        self._layers: tuple[int, ...] = call["text_encoder_out_layers"].default
        self._check_layers()

    @property
    def _read_width(self) -> int | None:
        return None  # a row is several layers of the text encoder, see `_check_layers`

    def _check_layers(self) -> None:
        """Refuse a text encoder that does not belong to the transformer."""
        if self.pipe.text_encoder is None:
            return
        config = self.pipe.text_encoder.config.get_text_config()
        given, expected = config.hidden_size * len(self._layers), self.denoiser.config.joint_attention_dim
        if given != expected or config.num_hidden_layers < max(self._layers):
            raise ModelError(
                f"the transformer reads rows of width {expected}, but layers {self._layers} of the text "
                f"encoder, which has {config.num_hidden_layers}, make rows of {given}; load the text encoder that came "
                "with the model."
            )

    @property
    def tokenizers(self) -> dict[str, Any]:
        return dict.fromkeys(self.text_encoders, self._prompt_tokenizer)

    @property
    def _prompt_tokenizer(self) -> Any:
        """The tokenizer alone, where the pipeline has a processor of text and pictures around it."""
        from transformers import ProcessorMixin

        whole = self.pipe.tokenizer
        return whole.tokenizer if isinstance(whole, ProcessorMixin) else whole

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        side = self.image_size // int(self.pipe.vae_scale_factor) // 2
        return self._channels, side, side

    @property
    def _vae_channels(self) -> int:
        return super()._vae_channels * 4

    @property
    def _picture_tokens(self) -> int:
        _, height, width = self.latent_shape
        return height * width

    @property
    def _mu(self) -> float:
        """The pipeline's own shift, which depends on the number of steps too."""
        from diffusers.pipelines.flux2.pipeline_flux2 import compute_empirical_mu

        return float(compute_empirical_mu(self._picture_tokens, STEPS[int(self._distilled)]))

    @property
    def _distilled(self) -> bool:
        return bool(self.pipe.config.get("is_distilled"))

    def attention_maps(self) -> list[WeightMap]:
        """As in the base class; the blocks with one stream have queries, keys and values in one map with their MLP."""
        fused = [
            WeightMap(f"{path}.{FUSED}", path.removesuffix(".attn"), "shared", "qkv")
            for path, module in walk(self.denoiser)
            if module._modules.get(FUSED) is not None
        ]
        return [*super().attention_maps(), *fused]

    def text_maps(self, order: str, params: str = "kv") -> list[Projection]:
        """As in the base class; of the fused maps the rows of keys, of values, or of both, which follow on queries."""
        if order != "shared":
            return super().text_maps(order, params)
        width = int(self.denoiser.config.num_attention_heads * self.denoiser.config.attention_head_dim)
        rows = slice(width * (1 if "k" in params else 2), width * (3 if "v" in params else 2))
        fused = [m.path for m in self.attention_maps() if m.part == "qkv"]
        return [Projection(path, params, self.module(path), rows, normed=params == "k") for path in fused]

    @cached_property
    def _template(self) -> Template:
        if self._klein:
            return Template.of(chat_render(self.pipe.tokenizer, add_generation_prompt=True, enable_thinking=False))
        return Template.of(self._rendered)

    def _rendered(self, prompt: str) -> str:
        """A turn of dev."""
        from diffusers.pipelines.flux2.pipeline_flux2 import format_input

        check_chat(self.pipe.tokenizer)
        turns = format_input([prompt], system_message=self.pipe.system_message)[0]
        text: str = self.pipe.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=False)
        return text

    def _tokens(self, texts: Sequence[str], subjects: Sequence[str | int | None] | None) -> Tokens:
        if not self._klein:  # the pipeline takes its mark of a picture out of prompts
            subjects = [len(_unmarked(t[:s])) if isinstance(s, int) else s for t, s in _pairs(texts, subjects)]
            texts = [_unmarked(text) for text in texts]
        options = {} if self._klein else {"add_special_tokens": False}
        return template_tokens(self._prompt_tokenizer, texts, subjects, self._template, self.max_tokens, **options)

    def _places(self, tokens: Tokens) -> Tensor:
        """(B,) the row among all that the transformer reads at which each turn begins."""
        lengths = tokens.read.sum(dim=1)
        return self.max_tokens - lengths if self._prompt_tokenizer.padding_side == "left" else torch.zeros_like(lengths)

    def last_token(self, text: str, subject: str) -> int:
        tokens = self._tokens([text], [subject])
        return int((tokens.last + self._places(tokens))[0])

    @torch.no_grad()
    def encode(
        self,
        texts: Sequence[str],
        subjects: Sequence[str | int | None] | None = None,
        until: Sequence[Until] | None = None,
        known: KnownStates | None = None,
    ) -> TextStates:
        tokens = self._tokens(texts, subjects)
        begin, length = self._places(tokens), self.max_tokens
        first, last, end = tokens.first + begin, tokens.last + begin, tokens.end + begin
        if until is None or {"few", "all"} & set(until):
            parts = [Further(0, first, last, end, begin)]
            return self._encode_padded(texts, parts, until, known, start=True)
        tree = super().encode(texts, subjects, until, known)
        own = tree.at.shape[1]
        at = torch.full((len(texts), length + own), -1)
        read = torch.ones(len(texts), length, dtype=torch.bool)
        at.scatter_(1, begin[:, None] + torch.arange(own), tree.at)
        return replace(tree, at=at[:, :length], first=first, last=last, end=end, read=read, front=begin)

    def _token_states(self, ids: Tensor, positions: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        options = {"output_hidden_states": True, "use_cache": False, "logits_to_keep": 1}
        layers = run_on(self.pipe.text_encoder, ids[..., 0], positions, mask, **options).hidden_states
        states = torch.cat([layers[i] for i in self._layers], dim=-1)
        return states.to(self.device), None

    def unconditional(self) -> Condition:
        return self.condition([""])

    def _condition(self, texts: Sequence[str]) -> Condition:
        states, _ = self.pipe.encode_prompt(list(texts), device=self.device, max_sequence_length=self.max_tokens)
        return Condition({"encoder_hidden_states": states})

    def _predict(self, latents: Tensor, timestep: Tensor, condition: Condition) -> Tensor:
        b, _, height, width = latents.shape
        one, rows, columns = torch.arange(1), torch.arange(height), torch.arange(width)
        length = condition.inputs["encoder_hidden_states"].shape[1]
        guided = self.denoiser.config.guidance_embeds
        output: Tensor = self.denoiser(
            latents.flatten(2).transpose(1, 2),
            timestep=timestep.to(latents.dtype) / 1000,
            guidance=torch.full((b,), EMBEDDED_GUIDANCE, device=latents.device) if guided else None,
            txt_ids=torch.cartesian_prod(one, one, one, torch.arange(length)).to(latents.device),
            img_ids=torch.cartesian_prod(one, rows, columns, one).to(latents.device),
            **condition.inputs,
        ).sample
        return output.transpose(1, 2).unflatten(2, (height, width))

    def _whitening(self) -> tuple[Tensor, Tensor]:
        """(1, 4c, 1, 1) each: mean and deviation of patched latents."""
        norm, config = self.pipe.vae.bn, self.pipe.vae.config
        deviation = (norm.running_var.float() + config.batch_norm_eps).sqrt()
        return norm.running_mean.float().view(1, -1, 1, 1), deviation.view(1, -1, 1, 1)

    def _scaled(self, raw: Tensor) -> Tensor:
        mean, deviation = (figure.to(raw.device) for figure in self._whitening())
        return (patched(raw) - mean) / deviation

    def _unscaled(self, latents: Tensor) -> Tensor:
        mean, deviation = (figure.to(latents.device) for figure in self._whitening())
        return unpatched(latents * deviation + mean)

    def _call(self, condition: Condition, unconditional: Condition) -> dict[str, Any]:
        negative = unconditional.inputs["encoder_hidden_states"]
        return {
            "prompt_embeds": condition.inputs["encoder_hidden_states"],
            **({"negative_prompt_embeds": negative} if self._klein else {}),
            "height": self.image_size,
            "width": self.image_size,
        }

    def _guidance(self, scale: float) -> dict[str, Any]:
        if self._klein:
            return {"guidance_scale": 1.0 if self._distilled else scale}
        return {"guidance_scale": EMBEDDED_GUIDANCE}


def _unmarked(text: str) -> str:
    """A prompt without the mark of a picture."""
    return text.replace("[IMG]", "")


def _pairs(texts: Sequence[str], subjects: Sequence[str | int | None] | None) -> list[tuple[str, str | int | None]]:
    """Prompts with their subjects."""
    return list(zip(texts, subjects or [None] * len(texts), strict=True))
