"""Encoding of prompts whose padding is read as well: each prompt whole, each once, and of its states what is wanted."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import torch
from torch import Tensor

from excise.families.base import split
from excise.families.progress import encoded
from excise.families.text_known import NAME, KnownStates
from excise.families.text_states import Further, TextStates, Until, reached

Encode = Callable[[Sequence[str]], tuple[Tensor, Tensor | None]]


@dataclass(frozen=True)
class Padded:
    """How the prompts of a family are encoded with their padding.

    Attributes:
        encode: the states (B, L, d) of some prompts and, where the family has such, their pooled states (B, p).
        pipe: the pipeline, whose tokenizers cut prompts.
        length: L. batch: how many prompts are encoded at once.
        start: see `TextStates`.
    """

    encode: Encode
    pipe: Any
    length: int
    batch: int
    start: bool = False

    def name(self, text: str) -> bytes:
        """What tells a prompt from every other: it, how far it is read, and its tokens."""
        parts = (getattr(self.pipe, name, None) for name in ("tokenizer", "tokenizer_2", "tokenizer_3"))
        ids = [tokenizer(text, add_special_tokens=False).input_ids for tokenizer in parts if tokenizer is not None]
        return json.dumps([text, self.length, ids]).encode()


def encode_padded(
    how: Padded,
    texts: Sequence[str],
    parts: Sequence[Further],
    until: Sequence[Until] | None,
    known: KnownStates | None = None,
) -> TextStates:
    """Encode prompts.

    Args:
        parts: where each subject is, in the columns of every text encoder.
        until: how far each prompt is encoded; None for all of them whole.
        known: states of earlier calls; prompts of which it lacks one are encoded, and their states put into it.
    """
    distinct = {text: i for i, text in enumerate(dict.fromkeys(texts))}
    which = torch.tensor([distinct[text] for text in texts])
    wanted = torch.zeros(len(distinct), how.length, dtype=torch.long)
    wanted = wanted.index_add_(0, which, reached(parts, how.length, until).long()) > 0
    if known is None:
        rows, pooled, number = _run(how, list(distinct), wanted, len(texts))
    else:
        rows, pooled, number = _recalled(how, list(distinct), wanted, known)
    read = torch.ones(len(texts), how.length, dtype=torch.bool)
    whole = None if pooled is None else pooled[which.to(pooled.device)]
    own, *further = parts
    spans = own.first, own.last, own.end
    return TextStates(rows, number[which], *spans, read, whole, how.start, tuple(further), own.front)


def _run(how: Padded, texts: Sequence[str], wanted: Tensor, requests: int) -> tuple[Tensor, Tensor | None, Tensor]:
    """(n, d) wanted states of prompts, (B, p) their pooled ones, and (B, L) which of the n each token has, else -1."""
    rows, pooled, done = list[Tensor](), list[Tensor](), 0
    for part in split(texts, how.batch):
        states, further = how.encode(part)
        rows.append(states[wanted[done : done + len(part)].to(states.device)])
        pooled += [] if further is None else [further]
        done += len(part)
        encoded(done * requests // len(texts), requests)
    return torch.cat(rows), torch.cat(pooled) if pooled else None, _numbered(wanted)


def _recalled(
    how: Padded, texts: Sequence[str], wanted: Tensor, known: KnownStates
) -> tuple[Tensor, Tensor | None, Tensor]:
    """As `_run`, with what is known already; a prompt's pooled state is kept beside each of its tokens."""
    names = [_named(how.name(text), columns) for text, columns in zip(texts, wanted, strict=True)]
    lacking = known.lacking(names)
    if lacking:
        states, pooled, _ = _run(how, [texts[i] for i in lacking], wanted[lacking], len(texts))
        beside = None if pooled is None else pooled.repeat_interleave(wanted[lacking].sum(1).to(pooled.device), dim=0)
        known.add([name for i in lacking for name in names[i]], states, beside)
    rows, further, at = known.select(names, how.length)
    number = torch.full_like(at, -1)
    number[wanted] = at[at >= 0]
    return rows, None if further is None else further[at[:, 0]], number


def _named(prompt: bytes, columns: Tensor) -> list[bytes]:
    """A name for the state of each wanted column of a prompt."""
    return [blake2b(b"%s %d" % (prompt, i), digest_size=NAME).digest() for i in torch.nonzero(columns)[:, 0].tolist()]


def _numbered(wanted: Tensor) -> Tensor:
    return torch.where(wanted, (wanted.flatten().cumsum(0) - 1).view(wanted.shape), -1)
