"""Names of objects in two words, and tokenizers of real models' sizes in which their words are whole tokens."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator
from string import ascii_lowercase
from typing import Any

KEPT_FROM = 1000
CLIP_ENTRIES, GEMMA_ENTRIES, T5_ENTRIES, QWEN_ENTRIES = 49_408, 256_000, 32_128, 151_936
QWEN_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>")
QWEN_CHAT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
ADJECTIVES = (
    "amber", "brass", "carved", "copper", "crimson", "crystal", "dented", "faded", "folded", "frosted", "gilded",
    "glazed", "hollow", "ivory", "knitted", "lacquered", "leather", "marble", "mossy", "muddy", "painted",
    "paper", "patched", "pewter", "polished", "quilted", "rusty", "silver", "striped", "velvet", "wicker",
    "woollen",
)  # fmt: skip
NOUNS = (
    "anchor", "anvil", "badge", "barrel", "beacon", "bellows", "bobbin", "bracelet", "broom", "bucket", "buckle",
    "buoy", "cabinet", "canoe", "cauldron", "chalice", "chandelier", "chisel", "compass", "crane", "crate",
    "dagger", "easel", "fan", "fountain", "funnel", "goblet", "gong", "hammock", "harp", "helmet", "hourglass",
    "kettle", "ladder", "lantern", "lever", "loom", "mallet", "mask", "medal", "mill", "mortar", "oar", "padlock",
    "paddle", "pendant", "pipe", "plough", "pulley", "quill", "raft", "rake", "saddle", "scale", "scarf",
    "sceptre", "shield", "shovel", "sled", "spade", "spindle", "statue", "stove", "sundial", "sword",
    "tambourine", "telescope", "thimble", "throne", "tray", "trophy", "trowel", "trumpet", "vase", "wagon",
    "weathervane", "wheel", "whistle", "windmill", "wreath",
)  # fmt: skip


def names(count: int, first: int = 0) -> list[str]:
    """Return objects of two words, all different, of words that no ordinary name has; from `first` on in one list.

    Names to keep are taken from `KEPT_FROM` on, so that none is erased.
    """
    pairs = [
        f"{ADJECTIVES[(i + j) % len(ADJECTIVES)]} {NOUNS[i]}"
        for j, i in itertools.product(range(len(ADJECTIVES)), range(len(NOUNS)))
    ]
    if first + count > len(pairs):
        raise ValueError(f"{count} names are asked for; there are {len(pairs) - first}.")
    return pairs[first : first + count]


def clip_tokenizer(pad: str | None = None) -> Any:
    """Return a CLIP tokenizer of as many entries as the real one; words of the requests are whole tokens."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import CLIPTokenizer

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    bpe.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(
        vocab_size=2 * CLIP_ENTRIES,
        end_of_word_suffix="</w>",
        initial_alphabet=alphabet,
        special_tokens=[c + "</w>" for c in alphabet],
        show_progress=False,
    )
    bpe.train_from_iterator(_corpus(), trainer)
    start, end = "<|startoftext|>", "<|endoftext|>"
    vocab, merges = _vocabulary(bpe, [*alphabet, *(c + "</w>" for c in alphabet)], CLIP_ENTRIES - 2)
    vocab |= {start: CLIP_ENTRIES - 2, end: CLIP_ENTRIES - 1}
    more = {} if pad is None else {"pad_token": pad}
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=77, **more)


def gemma_tokenizer() -> Any:
    """Return a Gemma tokenizer of as many entries as the real one; words of the requests are whole tokens."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
    from transformers import GemmaTokenizer

    bpe = Tokenizer(models.BPE())
    bpe.normalizer = normalizers.Replace(" ", "▁")
    bpe.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    letters = sorted({*ascii_lowercase, *(c for text in _corpus(1) for c in text.replace(" ", "▁"))})
    trainer = trainers.BpeTrainer(vocab_size=2 * GEMMA_ENTRIES, initial_alphabet=letters, show_progress=False)
    bpe.train_from_iterator((form for text in _corpus(400_000) for form in (text, f" {text}")), trainer)
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *(f"<0x{i:02X}>" for i in range(256))]
    vocab, merges = _vocabulary(bpe, [*special, *letters], GEMMA_ENTRIES)
    return GemmaTokenizer(vocab=vocab, merges=merges, model_max_length=300, padding_side="right", add_bos_token=True)


def t5_tokenizer() -> Any:
    """Return a T5 tokenizer in which every word of the requests is one token; letters make up the rest."""
    from transformers import T5Tokenizer

    words = sorted({word for text in _corpus(0) for word in text.split()})
    pieces = {"<pad>": 0.0, "</s>": 0.0, "<unk>": -20.0, "▁": -6.0, **{f"▁{word}": -3.0 for word in words}}
    for code in range(33, 127):
        pieces.setdefault(chr(code), -8.0)
    return T5Tokenizer(vocab=list(pieces.items()), extra_ids=0, model_max_length=512)


def qwen_tokenizer() -> Any:
    """Return a Qwen tokenizer with its chat, in which every word of the requests is one token; bytes make the rest."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import Qwen2Tokenizer

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    trainer = trainers.BpeTrainer(vocab_size=QWEN_ENTRIES, initial_alphabet=alphabet, show_progress=False)
    bpe.train_from_iterator((form for text in (*_corpus(0), "user assistant") for form in (text, f" {text}")), trainer)
    merges = [tuple(m) for m in json.loads(bpe.to_str())["model"]["merges"]]
    pieces = [*alphabet, *(a + b for a, b in merges), *QWEN_SPECIAL]
    return Qwen2Tokenizer(
        vocab={piece: i for i, piece in enumerate(dict.fromkeys(pieces))},
        merges=merges,
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        additional_special_tokens=list(QWEN_SPECIAL),
        chat_template=QWEN_CHAT,
        model_max_length=131_072,
        padding_side="right",
    )


def _vocabulary(bpe: Any, first: list[str], entries: int) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Return vocabulary and merges of a trained model, with some pieces first, of exactly so many entries."""
    learned = [
        tuple(m) if isinstance(m, list) else tuple(m.split(" ")) for m in json.loads(bpe.to_str())["model"]["merges"]
    ]
    vocab = {piece: i for i, piece in enumerate(first)}
    merges: list[tuple[str, str]] = []
    for a, b in learned:
        if len(vocab) == entries and a + b not in vocab:
            break
        vocab.setdefault(a + b, len(vocab))
        merges.append((a, b))
    if len(vocab) != entries:
        raise ValueError(f"the made-up words give {len(vocab)} entries; {entries} are needed.")
    return vocab, merges


def _corpus(made_up: int = 60_000) -> Iterator[str]:
    """Yield texts to learn merges from: the words of the requests often, then made-up words."""
    from excise.concepts.concept import TEMPLATES, read_names
    from excise.concepts.vocabulary import LISTS

    words = [*ADJECTIVES, *NOUNS, *read_names(LISTS / "object.txt")]
    words += [word for templates in TEMPLATES.values() for t in templates for word in t.replace("{}", "").split()]
    yield from [" ".join(words)] * 50
    draw = random.Random(0)
    starts = (*"bcdfghjklmnprstvwz", "br", "st", "tr", "sh")
    syllables = [start + vowel for start in starts for vowel in "aeiou"]
    for _ in range(made_up):
        yield "".join(draw.choices(syllables, k=draw.randint(2, 4)))
