"""A tiny random FLUX.1 pipeline and an adapter for it, registered as another package would register a family.

The adapter covers what diffusion transformers do differently from the built-in families: text is read in joint
attention, where its rows mix with the picture's; token states enter through one embedder; latents are packed into
patches; the schedule shifts with the picture's size; guidance is an input of the denoiser.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import EntryPoint
from typing import Any

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel, T5Tokenizer

from excise.families import capabilities as c
from excise.families.base import Condition, Projection
from excise.families.networks import module_in, parameters
from excise.families.pipeline import PipelineFamily
from excise.families.subjects import subject_spans
from excise.families.text_known import KnownStates
from excise.families.text_states import TextStates, Until
from excise.registry import Record

PROVIDES = frozenset({c.POOLED, c.ATTENTION, c.TEXT_ENCODER})
RECORD = Record("tiny_flux:Flux", "FLUX.1 (FluxPipeline)", provides=PROVIDES, pipelines=("Flux",))
EMBEDDER, POOLED = "context_embedder", "time_text_embed.text_embedder.linear_1"
EMBEDDED_GUIDANCE = 3.5  # the pipeline's default, an input of the distilled denoiser
WORDS = ("a", "photo", "of", "the", "cat", "dog", "car", "house", "tree", "on", "grass", "in", "neon", "red", "big")


class Flux(PipelineFamily):
    """Adapter of a `FluxPipeline`."""

    name = "flux"
    provides = PROVIDES
    denoiser_name = "transformer"
    encoder_names = ("text_encoder", "text_encoder_2")
    draws_with = "FluxPipeline"

    @property
    def text_width(self) -> int:
        return int(self.denoiser.config.joint_attention_dim)

    @property
    def text_encoder_weights(self) -> dict[str, Tensor]:
        return {n: w for name, e in self.text_encoders.items() for n, w in parameters(e, f"{name}.").items()}

    @property
    def max_tokens(self) -> int:
        self.check_encoders()
        return int(min(512, self.pipe.tokenizer_2.model_max_length))

    @property
    def image_size(self) -> int:
        return int(self.pipe.default_sample_size * self.pipe.vae_scale_factor)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        side = int(self.pipe.default_sample_size)
        return int(self.denoiser.config.in_channels) // 4, side, side

    @property
    def _picture_tokens(self) -> int:
        _, height, width = self.latent_shape
        return height * width // 4

    def _reads(self, layer: Any) -> str:
        return "joint"  # single blocks too, whose sequence begins with the text

    def projections(self, roles: str = "kv") -> list[Projection]:
        matches = super().projections(roles)
        entrances = (("e", EMBEDDER), ("p", POOLED))
        return matches + [Projection(p, r, module_in(self.denoiser, p)) for r, p in entrances if r in roles]

    @torch.no_grad()
    def encode(
        self,
        texts: Sequence[str],
        subjects: Sequence[str | int | None] | None = None,
        until: Sequence[Until] | None = None,
        known: KnownStates | None = None,
    ) -> TextStates:
        spans = subject_spans(self.pipe.tokenizer_2, texts, subjects, self.max_tokens, start=0)
        inputs = self.condition(texts).inputs
        states = inputs["encoder_hidden_states"]
        read = torch.ones(states.shape[:2], dtype=torch.bool)  # T5 gets no mask, nor does the transformer
        return TextStates.dense(states, *spans, read=read, pooled=inputs["pooled_projections"], start=False)

    def unconditional(self) -> Condition:
        return self.condition([""])

    def _condition(self, texts: Sequence[str]) -> Condition:
        states, pooled, _ = self.pipe.encode_prompt(
            prompt=list(texts), device=self.device, max_sequence_length=self.max_tokens
        )
        return Condition({"encoder_hidden_states": states, "pooled_projections": pooled})

    def _predict(self, latents: Tensor, timestep: Tensor, condition: Condition) -> Tensor:
        b, channels, height, width = latents.shape
        patches = latents.view(b, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
        rows, columns = torch.meshgrid(torch.arange(height // 2), torch.arange(width // 2), indexing="ij")
        places = torch.stack([torch.zeros_like(rows), rows, columns], dim=-1).flatten(0, 1)
        guidance = torch.full((b,), EMBEDDED_GUIDANCE, device=latents.device)
        output: Tensor = self.denoiser(
            patches.reshape(b, -1, channels * 4),
            timestep=timestep.to(latents.dtype) / 1000,
            guidance=guidance if self.denoiser.config.guidance_embeds else None,
            txt_ids=latents.new_zeros(condition.inputs["encoder_hidden_states"].shape[1], 3),
            img_ids=places.to(latents),
            **condition.inputs,
        ).sample
        patches = output.view(b, height // 2, width // 2, channels, 2, 2).permute(0, 3, 1, 4, 2, 5)
        return patches.reshape(b, channels, height, width)

    def _call(self, condition: Condition, unconditional: Condition) -> dict[str, Any]:
        return {
            "prompt_embeds": condition.inputs["encoder_hidden_states"],
            "pooled_prompt_embeds": condition.inputs["pooled_projections"],
            "negative_prompt_embeds": unconditional.inputs["encoder_hidden_states"],
            "negative_pooled_prompt_embeds": unconditional.inputs["pooled_projections"],
            "height": self.image_size,
            "width": self.image_size,
        }

    def _guidance(self, scale: float) -> dict[str, Any]:
        return {"guidance_scale": EMBEDDED_GUIDANCE, "true_cfg_scale": scale}


def register(monkeypatch: Any) -> None:
    """Make the family known for the time of a test, through an entry point."""
    point = EntryPoint("flux", "tiny_flux:RECORD", "excise.families")
    monkeypatch.setattr("excise.registry.entry_points", lambda group: [point] if group == point.group else [])


def tiny_flux(clip_tokenizer: Any, seed: int = 0) -> FluxPipeline:
    """A complete FLUX.1 pipeline of random weights: two joint and two single blocks, CLIP and T5, pictures of 32."""
    torch.manual_seed(seed)
    clip, t5 = _encoders(clip_tokenizer)
    transformer = FluxTransformer2DModel(
        in_channels=16,  # four latent channels in patches of 2 x 2
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        axes_dims_rope=(4, 4, 8),  # their sum is the width of a head
        joint_attention_dim=32,
        pooled_projection_dim=24,
        guidance_embeds=True,
    )
    vae = AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        norm_num_groups=4,
        latent_channels=4,
        sample_size=32,
        scaling_factor=0.5,
        shift_factor=0.1,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)
    pipe = FluxPipeline(scheduler, vae, clip, clip_tokenizer, t5, _t5_tokenizer(), transformer)
    pipe.default_sample_size = 16
    pipe.set_progress_bar_config(disable=True)
    for part in (clip, t5, transformer, vae):
        _redraw(part)
    return pipe


def _encoders(clip_tokenizer: Any) -> tuple[CLIPTextModel, T5EncoderModel]:
    clip = CLIPTextConfig(
        vocab_size=len(clip_tokenizer),
        hidden_size=24,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=clip_tokenizer.model_max_length,
        bos_token_id=clip_tokenizer.bos_token_id,
        eos_token_id=clip_tokenizer.eos_token_id,
        pad_token_id=clip_tokenizer.pad_token_id,
    )
    t5 = T5Config(
        vocab_size=len(_t5_tokenizer()),
        d_model=32,
        d_kv=8,
        d_ff=64,
        num_layers=2,
        num_heads=4,
        feed_forward_proj="gated-gelu",
    )
    return CLIPTextModel(clip), T5EncoderModel(t5)


def _t5_tokenizer(length: int = 16) -> T5Tokenizer:
    """Every word is one piece, every letter another; prompts are padded to `length`."""
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -20.0), ("▁", -6.0)]
    letters = [(chr(code), -8.0) for code in range(33, 127)]
    words = [(f"▁{word}", -3.0) for word in WORDS]
    pieces = dict(reversed([*special, *words, *letters]))
    ordered = list(dict.fromkeys(name for name, _ in [*special, *words, *letters]))
    return T5Tokenizer(vocab=[(name, pieces[name]) for name in ordered], extra_ids=0, model_max_length=length)


def _redraw(network: nn.Module) -> None:
    """Draw weights that let text reach the picture: matrices by their input width, biases and norms a little moved."""
    with torch.no_grad():
        for module in network.modules():
            for weight in module.parameters(recurse=False):
                noise = torch.randn(weight.shape)
                if isinstance(module, nn.Embedding):
                    weight.copy_(noise)
                elif weight.dim() < 2:
                    weight.add_(0.2 * noise)
                else:
                    weight.copy_(noise / weight[0].numel() ** 0.5)
    network.eval().requires_grad_(False)
