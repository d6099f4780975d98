"""Positions of a prompt's subject among its tokens: found in characters, translated to tokens by offsets.

The subject's own tokens do not tell, for a neighbouring character may form one token with its end ("Jr." before a
comma).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from excise.errors import ConceptError


def subject_spans(
    tokenizer: Any,
    texts: Sequence[str],
    subjects: Sequence[str | int | None] | None,
    limit: int,
    start: int = 1,
    ends: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    """(B,) first, last and end positions of each prompt's subject.

    Args:
        texts, subjects: as `Family.encode` takes them.
        limit: number of tokens that fit, special tokens included.
        start: number of special tokens before a prompt.
        ends: whether the last token of a prompt is an end token; else it is the prompt's own.

    Raises:
        ConceptError: a prompt does not fit, or does not contain its subject.
    """
    encoded = tokenizer(list(texts), return_offsets_mapping=tokenizer.is_fast, verbose=False)
    offsets = encoded.offset_mapping if tokenizer.is_fast else [None] * len(texts)
    spans = []
    for i, (text, subject) in enumerate(zip(texts, subjects or [None] * len(texts), strict=True)):
        row = encoded.input_ids[i]
        if len(row) > limit:
            raise ConceptError(
                f"'{text[:60]}' has {len(row)} tokens; {limit} fit; the end would be ignored. Shorten it."
            )
        end = len(row) - 1
        if isinstance(subject, str):
            tokens = _subject_tokens(tokenizer, text, subject, offsets[i], start)
            spans.append((tokens[0], tokens[-1], end))
        else:  # the whole prompt, or the token before an empty subject
            last = end - int(ends) if subject is None else max(0, start + _count(tokenizer, text[:subject]) - 1)
            spans.append((min(start, last), last, end))
    first, last_tokens, end_tokens = (torch.tensor(column, dtype=torch.long) for column in zip(*spans, strict=True))
    return first, last_tokens, end_tokens


def padded_ids(tokenizer: Any, texts: Sequence[str], length: int) -> Tensor:
    """(B, length): the tokens of prompts, padded, and cut where they are longer."""
    encoded = tokenizer(list(texts), padding="max_length", truncation=True, max_length=length, return_tensors="pt")
    ids: Tensor = encoded.input_ids
    return ids


def find_words(text: str, words: str) -> tuple[int, int]:
    """The last place where `words` stand in a text as whole words, in characters; case and spacing are ignored.

    Raises:
        ConceptError: there is none.

    >>> find_words("A portrait of St. Bernard, St. Bernard's dog", "st. bernard")
    (27, 38)
    """
    pattern = r"\s+".join(map(re.escape, words.split()))
    # No word ends between two letters or digits; a full stop or a bracket may have anything beside it.
    before = r"(?<![^\W_])" if words.strip()[:1].isalnum() else ""
    after = r"(?![^\W_])" if words.strip()[-1:].isalnum() else ""
    matches = list(re.finditer(f"{before}{pattern}{after}", text, re.IGNORECASE)) if pattern else []
    if not matches:
        raise ConceptError(
            f"'{words}' does not stand as words of its own in the prompt '{text}'; put spaces around it."
        )
    return matches[-1].span()


def holding(offsets: Sequence[tuple[int, int]], begin: int, stop: int) -> list[int]:
    """The tokens that contain a character from `begin` up to `stop`; special tokens contain none."""
    return [i for i, (a, b) in enumerate(offsets) if a < stop and b > begin and b > a]


def _subject_tokens(
    tokenizer: Any, text: str, subject: str, offsets: Sequence[tuple[int, int]] | None, start: int
) -> Sequence[int]:
    """The tokens of a subject, at least one; without offsets, by the number of tokens before it."""
    begin, stop = find_words(text, subject)
    tokens: Sequence[int]
    if offsets is None:
        tokens = range(start + _count(tokenizer, text[:begin]), start + _count(tokenizer, text[:stop]))
    else:
        tokens = holding(offsets, begin, stop)
    if not tokens:
        raise ConceptError(f"the model's tokenizer has no token for '{subject}' in '{text}'; write it otherwise.")
    return tokens


def _count(tokenizer: Any, text: str) -> int:
    """The number of tokens of a text, special tokens left out."""
    return len(tokenizer(text.rstrip(), add_special_tokens=False).input_ids)
