"""Where the words that a prompt is about stand among its tokens: found in characters, brought to tokens by offsets.

Tokens alone do not tell, for what stands beside a name may become one token with the end of it ("Jr." before a comma).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from excise.errors import ConceptError


def subject_spans(
    tokenizer: Any, texts: Sequence[str], subjects: Sequence[str | int | None] | None, limit: int
) -> tuple[Tensor, Tensor, Tensor]:
    """(B,) first, last and end positions of each prompt's subject, for tokenizers with a start and an end token.

    Args:
        texts, subjects: as `encode` takes them.
        limit: tokens that fit; the last one of a prompt is its end token.

    Raises:
        ConceptError: a prompt does not fit, or does not contain its subject.
    """
    found = tokenizer(list(texts), return_offsets_mapping=tokenizer.is_fast, verbose=False)
    offsets = found.offset_mapping if tokenizer.is_fast else [None] * len(texts)
    spans = []
    for i, (text, subject) in enumerate(zip(texts, subjects or [None] * len(texts), strict=True)):
        row = found.input_ids[i]
        if len(row) > limit:
            raise ConceptError(
                f"'{text[:60]}' has {len(row)} tokens; {limit} fit; the end would be ignored. Shorten it."
            )
        end = len(row) - 1
        if isinstance(subject, str):
            held = _held(tokenizer, text, subject, offsets[i])
            spans.append((held[0], held[-1], end))
        else:  # the whole prompt, or what stands before an empty subject
            count = end - 1 if subject is None else _count(tokenizer, text[:subject])
            spans.append((min(1, count), count, end))
    first, last, ends_at = (torch.tensor(column, dtype=torch.long) for column in zip(*spans, strict=True))
    return first, last, ends_at


def find_words(text: str, words: str) -> tuple[int, int]:
    """Where `words` stand last in a text as words of their own, in characters; case and spaces make no difference.

    Raises:
        ConceptError: they do not.

    >>> find_words("A portrait of St. Bernard, St. Bernard's dog", "st. bernard")
    (27, 38)
    """
    pattern = r"\s+".join(map(re.escape, words.split()))
    # No word ends between two letters or digits; a full stop or a bracket may have anything beside it.
    before = r"(?<![^\W_])" if words.strip()[:1].isalnum() else ""
    after = r"(?![^\W_])" if words.strip()[-1:].isalnum() else ""
    found = list(re.finditer(f"{before}{pattern}{after}", text, re.IGNORECASE)) if pattern else []
    if not found:
        raise ConceptError(
            f"'{words}' does not stand as words of its own in the prompt '{text}'; put spaces around it."
        )
    return found[-1].span()


def holding(offsets: Sequence[tuple[int, int]], begin: int, stop: int) -> list[int]:
    """The tokens that hold a character from `begin` up to `stop`; special ones hold none."""
    return [i for i, (a, b) in enumerate(offsets) if a < stop and b > begin and b > a]


def _held(tokenizer: Any, text: str, subject: str, offsets: Sequence[tuple[int, int]] | None) -> Sequence[int]:
    """The tokens of a subject, one at least; where a tokenizer tells no offsets, what stands before it is counted."""
    begin, stop = find_words(text, subject)
    held: Sequence[int]
    if offsets is None:
        held = range(1 + _count(tokenizer, text[:begin]), 1 + _count(tokenizer, text[:stop]))
    else:
        held = holding(offsets, begin, stop)
    if not held:
        raise ConceptError(f"the model's tokenizer has no token for '{subject}' in '{text}'; write it otherwise.")
    return held


def _count(tokenizer: Any, text: str) -> int:
    """How many tokens a text has, special ones left out."""
    return len(tokenizer(text.rstrip(), add_special_tokens=False).input_ids)
