"""Parts of tiny random pipelines of diffusion transformers: tokenizers of a few sentences, text encoders, autoencoders.

Weights are redrawn (`lively`) so that every bias, norm and gate does something: with the small initial weights of
transformers, text hardly reaches the picture, and tests of it would measure rounding.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cache
from typing import Any

import diffusers
import torch
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import nn

QWEN_SYSTEM = (
    "Describe the image by detailing the color, shape, size, texture, quantity, text, spatial relationships of the "
    "objects and background:"
)
CORPUS = (
    "a photo of a cat",
    "a photo of a dog on a table",
    "a painting of a castle in the style of Van Gogh",
    "a big red car in front of a church at night",
    "the dog is sitting on green grass near a tree",
    "a fire engine in neon style, kitty",
    "a very long prompt about a small house with a blue door and three windows in the snow",
    f"{QWEN_SYSTEM} user assistant system",
    "You are an assistant designed to generate superior images with the superior degree of image-text alignment based "
    "on textual prompts or user prompts. <Prompt Start> a photo",
)


def merges_of(bpe: Tokenizer) -> list[tuple[str, str]]:
    found = json.loads(bpe.to_str())["model"]["merges"]
    return [tuple(m) if isinstance(m, list) else tuple(m.split(" ")) for m in found]


def numbered(pieces: Iterable[str]) -> dict[str, int]:
    return {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}


Words = tuple[dict[str, int], list[tuple[str, str]]]
"""A vocabulary and merges, learnt once in a process: of pairs that are equally frequent, training merges any."""


def clip_tokenizer(length: int = 32) -> Any:
    """Lower case, `</w>` at word ends, start and end token; pads are the end token."""
    vocab, merges = _clip_words()
    return transformers.CLIPTokenizer(vocab=dict(vocab), merges=list(merges), model_max_length=length)


@cache
def _clip_words() -> Words:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    bpe.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(
        vocab_size=9999, end_of_word_suffix="</w>", initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator([line.lower() for line in CORPUS], trainer)
    merges = merges_of(bpe)
    pieces = [*alphabet, *(c + "</w>" for c in alphabet), *(a + b for a, b in merges)]
    return numbered([*pieces, "<|startoftext|>", "<|endoftext|>"]), merges


def t5_tokenizer(length: int = 32) -> Any:
    """Unigram: every word of the corpus is a piece, every letter another; one end token, pads are number 0."""
    words = sorted({w for line in CORPUS for w in line.split()})
    pieces = {"<pad>": 0.0, "</s>": 0.0, "<unk>": -20.0, "▁": -6.0}
    pieces.update((f"▁{w}", -3.0) for w in words)
    for code in range(33, 127):
        pieces.setdefault(chr(code), -8.0)
    return transformers.T5Tokenizer(vocab=list(pieces.items()), extra_ids=0, model_max_length=length)


def byte_level(special: Iterable[str], more: Iterable[str] = ()) -> Words:
    """Vocabulary and merges of a GPT-like tokenizer in which every word of the corpus, and of more, is one token."""
    vocab, merges = _byte_words(tuple(special), tuple(more))
    return dict(vocab), list(merges)


@cache
def _byte_words(special: tuple[str, ...], more: tuple[str, ...]) -> Words:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    trainer = trainers.BpeTrainer(vocab_size=9999, initial_alphabet=alphabet, show_progress=False)
    lines = (*CORPUS, *more)
    bpe.train_from_iterator([v for line in lines for v in (line, f" {line}", *line.split())], trainer)
    merges = merges_of(bpe)
    return numbered([*alphabet, *(a + b for a, b in merges), *special]), merges


# The parts of Qwen's template that a prompt meets: system and user turns, and an empty thought where thinking is off.
QWEN_CHAT = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' }}"
    "{% if m['content'] is string %}{{ m['content'] }}"
    "{% else %}{% for part in m['content'] %}{{ part['text'] }}{% endfor %}{% endif %}"
    "{{ '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}"
    "{% if enable_thinking is defined and enable_thinking is false %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}"
    "{% endif %}"
)
QWEN_SPECIAL = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>"),
    *("<|image_pad|>", "<|video_pad|>", "<think>", "</think>"),
)


def qwen_tokenizer(length: int = 64) -> Any:
    """Byte-level; pads on the right; a chat template; Qwen-Image's prefix has 34 tokens, as with the real one."""
    vocab, merges = byte_level(QWEN_SPECIAL)
    return transformers.Qwen2Tokenizer(
        vocab=vocab,
        merges=merges,
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        additional_special_tokens=list(QWEN_SPECIAL),
        chat_template=QWEN_CHAT,
        model_max_length=length,
        padding_side="right",
    )


def gemma_tokenizer(length: int = 64) -> Any:
    """Words with the space before them, bytes for the rest, a start token and no end token."""
    vocab, merges = _gemma_words()
    return transformers.GemmaTokenizer(
        vocab=dict(vocab), merges=list(merges), model_max_length=length, padding_side="right", add_bos_token=True
    )


@cache
def _gemma_words() -> Words:
    bpe = Tokenizer(models.BPE())
    bpe.normalizer = normalizers.Replace(" ", "▁")
    bpe.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    lines = [v for line in CORPUS for v in (line, f" {line}", line.lower(), f" {line.lower()}")]
    letters = sorted({c for line in lines for c in line.replace(" ", "▁")})
    bpe.train_from_iterator(lines, trainers.BpeTrainer(vocab_size=9999, initial_alphabet=letters, show_progress=False))
    merges = merges_of(bpe)
    special = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>")
    pieces = [*special, *(f"<0x{i:02X}>" for i in range(256)), *letters, *(a + b for a, b in merges)]
    return numbered(pieces), merges


def lively(module: nn.Module, seed: int) -> Any:
    """Redraw all weights: matrices keep the size of their input, norms stay around what they are, biases around 0."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for part in module.modules():
            for name, p in part.named_parameters(recurse=False):
                noise = torch.randn(p.shape, generator=rng)
                if isinstance(part, nn.Embedding):
                    p.copy_(noise)
                elif p.ndim < 2:
                    p.copy_(p.mean().round() + 0.2 * noise)
                elif name == "weight":
                    p.copy_(noise / p[0].numel() ** 0.5)
                else:  # tables, learned tokens
                    p.copy_(0.5 * noise)
    return module.eval().requires_grad_(False)


def clip_text(tokenizer: Any, width: int = 32, projection: int | None = 32, seed: int = 1) -> Any:
    """CLIP; a projection makes it the class with a pooled, projected output."""
    config = transformers.CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        projection_dim=projection or width,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    kind = transformers.CLIPTextModelWithProjection if projection else transformers.CLIPTextModel
    return lively(kind(config), seed)


def t5_text(tokenizer: Any, width: int = 32) -> Any:
    config = transformers.T5Config(
        vocab_size=len(tokenizer),
        d_model=width,
        d_kv=8,
        d_ff=2 * width,
        num_layers=2,
        num_heads=4,
        feed_forward_proj="gated-gelu",
        pad_token_id=0,
        eos_token_id=1,
    )
    return lively(transformers.T5EncoderModel(config), 2)


def decoder(tokenizer: Any, width: int, layers: int, **more: Any) -> dict[str, Any]:
    """The numbers that all small causal decoders share."""
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": width // 4,
        "max_position_embeddings": 512,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        **more,
    }


def qwen3_text(tokenizer: Any, width: int = 32, layers: int = 3, kind: Any = transformers.Qwen3Model) -> Any:
    return lively(kind(transformers.Qwen3Config(**decoder(tokenizer, width, layers))), 3)


def gemma2_text(tokenizer: Any, width: int = 32, layers: int = 3) -> Any:
    numbers = decoder(tokenizer, width, layers, query_pre_attn_scalar=width // 4, sliding_window=4096)
    return lively(transformers.Gemma2Model(transformers.Gemma2Config(**numbers)), 4)


def kl_vae(channels: int = 4, factor: int = 2, shift: float | None = 0.1) -> Any:
    """An autoencoder of pictures of 16 times `factor` pixels that shrinks by `factor`, 2 or 8."""
    levels = {2: 2, 8: 4}[factor]
    vae = diffusers.AutoencoderKL(
        block_out_channels=(8,) * levels,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        layers_per_block=1,
        norm_num_groups=4,
        latent_channels=channels,
        sample_size=8 * factor,
        scaling_factor=0.5,
        shift_factor=shift,
        use_quant_conv=shift is None,
        use_post_quant_conv=shift is None,
        force_upcast=False,
    )
    return lively(vae, 7)


def qwen_vision(width: int) -> dict[str, Any]:
    """The configuration of a vision tower that is there only because the class of the encoder has one."""
    return {
        "depth": 1,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_heads": 2,
        "out_hidden_size": width,
        "patch_size": 4,
        "spatial_patch_size": 4,
        "spatial_merge_size": 1,
        "temporal_patch_size": 2,
        "window_size": 8,
        "fullatt_block_indexes": [0],
        "deepstack_visual_indexes": [0],
        "num_position_embeddings": 16,
    }


def qwen_ids(tokenizer: Any) -> dict[str, int]:
    """The numbers of the tokens that stand for pictures."""
    names = {
        "image_token_id": "<|image_pad|>",
        "video_token_id": "<|video_pad|>",
        "vision_start_token_id": "<|vision_start|>",
        "vision_end_token_id": "<|vision_end|>",
    }
    return {key: tokenizer.convert_tokens_to_ids(token) for key, token in names.items()}


def qwen_vae() -> Any:
    """Four channels, each with its own mean and deviation; shrinks by 2; it says the size of its pictures."""
    vae = diffusers.AutoencoderKLQwenImage(
        base_dim=8,
        z_dim=4,
        dim_mult=[1, 1],
        num_res_blocks=1,
        temperal_downsample=[False],
        latents_mean=[0.1, -0.1, 0.2, 0.0],
        latents_std=[1.0, 2.0, 0.5, 1.5],
    )
    vae.register_to_config(sample_size=16)
    return lively(vae, 8)


def quiet(pipe: Any) -> Any:
    """The pipeline without its progress bar."""
    pipe.set_progress_bar_config(disable=True)
    return pipe
