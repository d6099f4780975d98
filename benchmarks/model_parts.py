"""Networks of real models' shapes, without weights: their settings, and functions that build them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from benchmarks.made_up_words import CLIP_ENTRIES, GEMMA_ENTRIES, QWEN_ENTRIES, T5_ENTRIES

if TYPE_CHECKING:
    from torch import nn

SD15_DENOISER = {
    "block_out_channels": (320, 640, 1280, 1280),
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
    "sample_size": 64,
}
SDXL_DENOISER = {
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
    "sample_size": 128,
}
SANA_DENOISER = {
    "num_layers": 20,
    "num_attention_heads": 70,
    "attention_head_dim": 32,
    "num_cross_attention_heads": 20,
    "cross_attention_head_dim": 112,
    "cross_attention_dim": 2240,
    "caption_channels": 2304,
    "in_channels": 32,
    "out_channels": 32,
    "sample_size": 32,
}
AUTOENCODER = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
}
DC_AUTOENCODER = {
    "latent_channels": 32,
    "encoder_block_types": ("ResBlock",) * 3 + ("EfficientViTBlock",) * 3,
    "decoder_block_types": ("ResBlock",) * 3 + ("EfficientViTBlock",) * 3,
    "encoder_block_out_channels": (128, 256, 512, 512, 1024, 1024),
    "decoder_block_out_channels": (128, 256, 512, 512, 1024, 1024),
    "encoder_layers_per_block": (2, 2, 2, 3, 3, 3),
    "decoder_layers_per_block": (3, 3, 3, 3, 3, 3),
    "encoder_qkv_multiscales": ((), (), (), (5,), (5,), (5,)),
    "decoder_qkv_multiscales": ((), (), (), (5,), (5,), (5,)),
    "scaling_factor": 0.41407,
}
FLUX_DENOISER = {"num_layers": 19, "num_single_layers": 38, "guidance_embeds": True}
ZIMAGE_DENOISER = {"n_layers": 30, "n_refiner_layers": 2}
FLUX_AUTOENCODER = {"latent_channels": 16, "scaling_factor": 0.3611, "shift_factor": 0.1159, "sample_size": 1024}
SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}


def unet(settings: Mapping[str, Any]) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        from diffusers import UNet2DConditionModel

        return UNet2DConditionModel(**settings)

    return make


def autoencoder(scaling_factor: float, **more: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        from diffusers import AutoencoderKL

        return AutoencoderKL(**{**AUTOENCODER, **more}, scaling_factor=scaling_factor)

    return make


def clip(width: int, layers: int, heads: int, act: str, projected: bool = False) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

        config = CLIPTextConfig(
            vocab_size=CLIP_ENTRIES,
            hidden_size=width,
            intermediate_size=4 * width,
            projection_dim=width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            max_position_embeddings=77,
            hidden_act=act,
            bos_token_id=CLIP_ENTRIES - 2,
            eos_token_id=CLIP_ENTRIES - 1,
            pad_token_id=CLIP_ENTRIES - 1,
        )
        return (CLIPTextModelWithProjection if projected else CLIPTextModel)(config)

    return make


def sana() -> nn.Module:
    from diffusers import SanaTransformer2DModel

    return SanaTransformer2DModel(**SANA_DENOISER)


def dc_autoencoder() -> nn.Module:
    from diffusers import AutoencoderDC

    return AutoencoderDC(**DC_AUTOENCODER)


def gemma() -> nn.Module:
    from transformers import Gemma2Config, Gemma2Model

    return Gemma2Model(
        Gemma2Config(
            vocab_size=GEMMA_ENTRIES,
            hidden_size=2304,
            intermediate_size=9216,
            num_hidden_layers=26,
            num_attention_heads=8,
            num_key_value_heads=4,
            head_dim=256,
            query_pre_attn_scalar=256,
            sliding_window=4096,
            max_position_embeddings=8192,
        )
    )


def t5() -> nn.Module:
    from transformers import T5Config, T5EncoderModel

    return T5EncoderModel(
        T5Config(
            vocab_size=T5_ENTRIES,
            d_model=4096,
            d_kv=64,
            d_ff=10240,
            num_layers=24,
            num_heads=64,
            feed_forward_proj="gated-gelu",
            is_encoder_decoder=False,
            dropout_rate=0.0,
        )
    )


def qwen() -> nn.Module:
    from transformers import Qwen3Config, Qwen3Model

    return Qwen3Model(
        Qwen3Config(
            vocab_size=QWEN_ENTRIES,
            hidden_size=2560,
            intermediate_size=9728,
            num_hidden_layers=36,
            num_attention_heads=32,
            num_key_value_heads=8,
            head_dim=128,
            max_position_embeddings=40960,
        )
    )
