"""The text encoder of `canvas-sana`: a small Gemma 2 with a byte-pair tokenizer of the same kind as the real one.

A word's token includes the space before it ("▁cat"), unknown characters fall back to bytes, a prompt begins with <bos>,
has no end token, and is padded on the right with a mask.
"""

from __future__ import annotations

from collections.abc import Iterator

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import Gemma2Config, Gemma2Model, GemmaTokenizer

from excise.canvas import clip

WIDTH = 256
LENGTH = 32
MERGES = 1000
SPECIAL = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>")


def build_tokenizer() -> GemmaTokenizer:
    """Return a Gemma tokenizer with merges from the words of Canvas."""
    letters, merges = learnt_pieces()
    pieces = [*SPECIAL, *(f"<0x{i:02X}>" for i in range(256)), *letters, *(a + b for a, b in merges)]
    vocab = {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}
    return GemmaTokenizer(vocab=vocab, merges=merges, model_max_length=LENGTH, padding_side="right", add_bos_token=True)


def learnt_pieces() -> tuple[list[str], list[tuple[str, str]]]:
    """Return all letters of Canvas and the merges of them, in the order in which they were learnt; "▁" is a space."""
    bpe = Tokenizer(models.BPE())
    bpe.normalizer = normalizers.Replace(" ", "▁")
    # Merges are learned inside words, each with a space before it and without one, as at the start of a prompt.
    bpe.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    letters = sorted({c for line in _corpus() for c in line.replace(" ", "▁")})
    trainer = trainers.BpeTrainer(vocab_size=100_000, initial_alphabet=letters, show_progress=False)
    bpe.train_from_iterator(_corpus(), trainer)
    return letters, clip.merges_of(bpe)[:MERGES]


def build_text_model(tokenizer: GemmaTokenizer, width: int = WIDTH, layers: int = 4) -> Gemma2Model:
    """Return an untrained text encoder: causal, rotary positions, a sliding window in every second layer."""
    return Gemma2Model(
        Gemma2Config(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=layers,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=width // 4,
            query_pre_attn_scalar=width // 4,
            sliding_window=16,
            max_position_embeddings=2 * LENGTH,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )


def _corpus() -> Iterator[str]:
    for text in clip.corpus():
        yield text
        yield f" {text}"
