"""The text encoder of `canvas-zimage`: a small Qwen 3 with a byte-level tokenizer and a chat template.

A prompt is the turn of a user, after which the assistant's begins. The denoiser reads all of it, at the layer before
the last.
"""

from __future__ import annotations

from collections.abc import Iterator

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import Qwen2Tokenizer, Qwen3Config, Qwen3Model

from excise.canvas import clip

WIDTH = 256
LENGTH = 40
MERGES = 1000
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>")
# The part of Qwen's own template that a prompt of one turn meets.
CHAT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)


def build_tokenizer() -> Qwen2Tokenizer:
    """Return a Qwen tokenizer with merges from the words of Canvas and of the template."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    trainer = trainers.BpeTrainer(vocab_size=100_000, initial_alphabet=alphabet, show_progress=False)
    bpe.train_from_iterator(_corpus(), trainer)
    merges = clip.merges_of(bpe)[:MERGES]
    pieces = [*alphabet, *(a + b for a, b in merges), *SPECIAL]
    return Qwen2Tokenizer(
        vocab={piece: i for i, piece in enumerate(dict.fromkeys(pieces))},
        merges=merges,
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        additional_special_tokens=list(SPECIAL),
        chat_template=CHAT,
        model_max_length=LENGTH,
        padding_side="right",
    )


def build_text_model(tokenizer: Qwen2Tokenizer, width: int = WIDTH, layers: int = 5) -> Qwen3Model:
    """Return an untrained text encoder: causal, rotary positions, normed queries and keys."""
    return Qwen3Model(
        Qwen3Config(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=layers,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=width // 4,
            max_position_embeddings=2 * LENGTH,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
        )
    )


def _corpus() -> Iterator[str]:
    yield from ["user", "assistant"] * 20
    for text in clip.corpus():
        yield text
        yield f" {text}"
