"""A tiny random Kolors pipeline: ChatGLM of three layers, a UNet of two levels, pictures of 32 pixels."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import diffusers
import pytest
from tiny_parts import CORPUS, kl_vae, lively, quiet
from torch import Tensor

SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.014, "beta_schedule": "scaled_linear", "num_train_timesteps": 1100}


def build(seed: int = 24, zeros: bool = False, text: str = "text_proj") -> Any:
    """`zeros` asks for zeros in the place of an empty prompt, as published configurations do."""
    pytest.importorskip("sentencepiece")  # without it the pipeline is a placeholder that cannot be made
    tokenizer = _tokenizer()
    unet = diffusers.UNet2DConditionModel(
        block_out_channels=(8, 16),
        layers_per_block=1,
        sample_size=16,
        in_channels=4,
        out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=(2, 4),
        transformer_layers_per_block=(1, 2),
        norm_num_groups=4,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 32,
        cross_attention_dim=24,
        encoder_hid_dim=32,
        encoder_hid_dim_type=text,
    )
    return quiet(
        diffusers.KolorsPipeline(
            vae=kl_vae(shift=None),
            text_encoder=_encoder(tokenizer),
            tokenizer=tokenizer,
            unet=lively(unet, seed),
            scheduler=diffusers.EulerDiscreteScheduler(**SCHEDULE),
            force_zeros_for_empty_prompt=zeros,
        )
    )


def call(guidance: float) -> dict[str, Any]:
    """Arguments of the pipeline's own call for guidance of a scale; 1 is none."""
    return {"guidance_scale": guidance}


def scaled(output: Tensor, time: Tensor, latents: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What the scheduler is given, whose latents are as large as their noise, as the UNet is given it."""
    alpha = diffusers.EulerDiscreteScheduler(**SCHEDULE).alphas_cumprod[int(time)]
    return output, time, latents / ((1 - alpha) / alpha + 1) ** 0.5


def _encoder(tokenizer: Any) -> Any:
    from diffusers.pipelines.kolors import ChatGLMModel
    from diffusers.pipelines.kolors.text_encoder import ChatGLMConfig, RMSNorm
    from torch import nn

    config = ChatGLMConfig(
        num_layers=3,
        padded_vocab_size=tokenizer.vocab_size,
        hidden_size=32,
        ffn_hidden_size=32,
        kv_channels=8,
        num_attention_heads=4,
        seq_length=512,
        multi_query_attention=True,
        multi_query_group_num=2,
        bias_dropout_fusion=False,
        rmsnorm=True,
        original_rope=True,
        add_qkv_bias=True,
    )
    model = ChatGLMModel(config, empty_init=False)
    for part in model.modules():
        if isinstance(part, RMSNorm):  # its weight is left as it was in memory
            nn.init.ones_(part.weight)
    return lively(model, 3)


@cache
def _tokenizer() -> Any:
    """The tokenizer of ChatGLM, in Python, around a sentence-piece model trained here; it pads on the left."""
    import sentencepiece
    from diffusers.pipelines.kolors import ChatGLMTokenizer

    folder = Path(tempfile.mkdtemp(prefix="tiny-kolors-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    (folder / "corpus.txt").write_text("\n".join(CORPUS * 3), encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "corpus.txt"),
        model_prefix=str(folder / "pieces"),
        model_type="bpe",
        vocab_size=600,
        hard_vocab_limit=False,
        character_coverage=1.0,
        num_threads=1,
        minloglevel=2,
    )
    return ChatGLMTokenizer(str(folder / "pieces.model"))
