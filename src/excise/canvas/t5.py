"""The second text encoder of `canvas-flux`: a small T5 encoder with a unigram tokenizer, as the real one has.

A word's token includes the space before it ("▁cat"), a prompt ends with `</s>`, and pads follow. The pipeline gives the
encoder no mask, so the states of pads hold the prompt too, and the denoiser reads them.
"""

from __future__ import annotations

from transformers import T5Config, T5EncoderModel, T5Tokenizer

from excise.canvas import gemma

WIDTH = 256
LENGTH = 32
SPECIAL = ("<pad>", "</s>", "<unk>")
COMMON, RARE, LETTER = -4.0, -10.0, -12.0  # log probabilities: of the first merge, of the last one, of a letter


def build_tokenizer() -> T5Tokenizer:
    """Return a T5 tokenizer with pieces from the words of Canvas; those that were merged first are the likeliest."""
    letters, merges = gemma.learnt_pieces()
    pieces = dict.fromkeys(SPECIAL, 0.0)
    pieces.update((letter, LETTER) for letter in [*letters, *map(chr, range(33, 127))])
    for i, (a, b) in enumerate(merges):
        pieces.setdefault(a + b, COMMON + (RARE - COMMON) * i / len(merges))
    return T5Tokenizer(vocab=list(pieces.items()), extra_ids=0, model_max_length=LENGTH)


def build_text_model(tokenizer: T5Tokenizer, width: int = WIDTH, layers: int = 4) -> T5EncoderModel:
    """Return an untrained text encoder: bidirectional, relative positions, gated MLPs."""
    return T5EncoderModel(
        T5Config(
            vocab_size=len(tokenizer),
            d_model=width,
            d_kv=width // 4,
            d_ff=2 * width,
            num_layers=layers,
            num_heads=4,
            relative_attention_num_buckets=16,
            relative_attention_max_distance=LENGTH,
            dropout_rate=0.0,
            feed_forward_proj="gated-gelu",
            is_encoder_decoder=False,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )
