"""Token states of encoded prompts, and the rows of a subject in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor

from excise.errors import ModelError

Until = Literal["last", "end", "few", "all"]
"""How far a prompt is encoded: to its subject's last token, to its end token, through that and a few of the padding
tokens around the prompt, or through all that is read."""
Pads = Literal["few", "all"]
FEW = 3


@dataclass(frozen=True)
class Further:
    """Columns in which the prompts stand once more, as the tokens of a further text encoder (T5 behind CLIP).

    Attributes:
        begin: the first of these columns; they reach to the next further ones, or to the end.
        first, last: (B,) first and last token of the subject among them; behind all columns where it is not there.
        end: (B,) the end token among them.
        front: (B,) the first token that is no padding.
    """

    begin: int
    first: Tensor
    last: Tensor
    end: Tensor
    front: Tensor | int = 0


@dataclass(frozen=True)
class TextStates:
    """Encoded prompts, and the positions of their subjects.

    A token's state is kept once, however many prompts begin with the same tokens. Padding may stand on either side of a
    prompt or inside it; `read` alone tells which tokens count.

    Attributes:
        rows: (n, d) the distinct states that token-reading projections read.
        at: (B, L) the row of each token of each prompt; -1 where its state was not asked for.
        first, last: (B,) first and last token of the subject.
        end: (B,) the end token, or the last token of the prompt where the model has no end token.
        read: (B, L) True where the denoiser reads the token, padding included where the model reads that (CLIP, T5).
        pooled: (B, p) what the projections of the whole prompt read, in families that have such; None too where the
            prompts were not encoded so far.
        start: whether the first token that is read is a start token, the same in every prompt.
        further: columns of further text encoders, in their order; `first`, `last` and `end` are of the first one's.
        front: (B,) the first token that is no padding, where padding stands before prompts.
    """

    rows: Tensor
    at: Tensor
    first: Tensor
    last: Tensor
    end: Tensor
    read: Tensor
    pooled: Tensor | None = None
    start: bool = True
    further: tuple[Further, ...] = ()
    front: Tensor | int = 0

    @classmethod
    def dense(
        cls,
        states: Tensor,
        first: Tensor,
        last: Tensor,
        end: Tensor,
        *,
        read: Tensor,
        pooled: Tensor | None = None,
        start: bool = True,
        further: tuple[Further, ...] = (),
    ) -> TextStates:
        """Of states (B, L, d), each token's own."""
        at = torch.arange(states.shape[0] * states.shape[1]).view(states.shape[:2])
        return cls(states.flatten(0, 1), at, first, last, end, read.cpu(), pooled, start, further)

    def reading(self, states: Tensor) -> TextStates:
        """These prompts with other states (B, L, d) of their tokens."""
        at = torch.arange(states.shape[0] * states.shape[1]).view(states.shape[:2])
        return replace(self, rows=states.flatten(0, 1), at=at, pooled=None)

    @property
    def states(self) -> Tensor:
        """(B, L, d) the state of each token of each prompt; zeros where the denoiser does not read."""
        known = self.at >= 0
        if bool((self.read & ~known).any()):
            raise ModelError(_NOT_ENCODED)
        return self.rows[self.at.clamp(min=0)] * known[..., None].to(self.rows)

    def chosen(self, indices: Sequence[int] | Tensor, tokens: str, pads: Pads = "all") -> Tensor:
        """(b, L) which tokens of some prompts a choice selects; only tokens that are read.

        Args:
            tokens: "last" (the subject's last token), "subject" (all of its tokens), "from_last" (its last token and
                all that follows, end token and padding included), "all_but_start" (all but the start token) or "all".
                The first three are of each text encoder's columns.
            pads: all of the padding among them, or a few tokens that stand for it (`standing`).
        """
        chosen = self._chosen(indices, tokens)
        return chosen if pads == "all" else chosen & self._standing(indices)

    def _chosen(self, indices: Sequence[int] | Tensor, tokens: str) -> Tensor:
        read, subject = self.read[indices], torch.zeros_like(self.read[indices])
        if tokens in ("all_but_start", "all"):
            return read & (read.cumsum(1) > {"all_but_start": int(self.start), "all": 0}[tokens])
        place = torch.arange(read.shape[1])
        for columns, part in zip(self.columns, self._parts, strict=True):
            first, last = part.first[indices, None], part.last[indices, None]
            inside = place >= (first if tokens == "subject" else last)
            subject |= columns & (inside if tokens == "from_last" else inside & (place <= last))
        return read & subject

    def around(self, indices: Sequence[int] | Tensor, targets: Sequence[int] | Tensor, pads: Pads = "all") -> Tensor:
        """(b, L) tokens around a subject: as many first ones as stand before that of `targets`, and all behind its own.

        Only tokens that are read; `pads` as in `chosen`.
        """
        read, outside = self.read[indices], torch.zeros_like(self.read[indices])
        place = torch.arange(read.shape[1])
        for columns, part in zip(self.columns, self._parts, strict=True):
            before = (self.read[targets] & columns & (place < part.first[targets, None])).sum(1, keepdim=True)
            own = read & columns
            outside |= own & ((own.cumsum(1) <= before) | (place > part.last[indices, None]))
        return outside if pads == "all" else outside & self._standing(indices)

    def _standing(self, indices: Sequence[int] | Tensor) -> Tensor:
        return standing(self._parts, self.at.shape[1])[indices]

    @property
    def columns(self) -> list[Tensor]:
        """(L,) for each text encoder whose tokens stand one behind the other, which columns are its own."""
        return columns_of(self._parts, self.at.shape[1])

    @property
    def _parts(self) -> tuple[Further, ...]:
        return (Further(0, self.first, self.last, self.end, self.front), *self.further)

    def gather(self, indices: Sequence[int] | Tensor, mask: Tensor) -> Tensor:
        """(n, d): the states of the tokens of some prompts that a mask (b, L) selects, prompt after prompt.

        Raises:
            ModelError: one of them was not asked for when the prompts were encoded.
        """
        at = self.at[indices][mask]
        if bool((at < 0).any()):
            raise ModelError(_NOT_ENCODED)
        return self.rows[at.to(self.rows.device)]

    def one_each(self, columns: Tensor) -> Tensor:
        """(B, d): the state of one token of each prompt, at `columns` (B,); raises as `gather`."""
        return self.gather(range(len(self.at)), torch.arange(self.at.shape[1]) == columns[:, None])

    def span(self, index: int, tokens: str, pads: Pads = "all") -> Tensor:
        """(n, d): the states of prompt `index` that a choice of tokens selects (see `chosen`)."""
        return self.gather([index], self.chosen([index], tokens, pads))


def columns_of(parts: Sequence[Further], length: int) -> list[Tensor]:
    """(length,) for each text encoder, which columns are its own."""
    place, begins = torch.arange(length), [part.begin for part in parts]
    return [(place >= begin) & (place < end) for begin, end in zip(begins, [*begins[1:], length], strict=True)]


def standing(parts: Sequence[Further], length: int) -> Tensor:
    """(B, length) all tokens but most of the padding: of what is before a prompt, and of what is behind its end, `FEW`.

    Where padding is not masked its states differ little from each other; evenly spaced ones stand for all.
    """
    place = torch.arange(length)
    stands = torch.zeros(len(parts[0].end), length, dtype=torch.bool)
    for columns, part in zip(columns_of(parts, length), parts, strict=True):
        own = torch.nonzero(columns)
        begin, stop = int(own[0]), int(own[-1]) + 1
        front = torch.as_tensor(part.front).expand(len(part.end)).clamp(begin, stop)
        behind = (part.end + 1).clamp(begin, stop)
        stands |= columns & (place >= front[:, None]) & (place < behind[:, None])
        for start, end in ((torch.full_like(front, begin), front), (behind, torch.full_like(behind, stop))):
            few = start[:, None] + (end - 1 - start).clamp(min=0)[:, None] * torch.arange(FEW) // (FEW - 1)
            spaced = torch.zeros_like(stands).scatter_(1, few.clamp(max=length - 1), True)
            stands |= spaced & (place >= start[:, None]) & (place < end[:, None])
    return stands


def reached(parts: Sequence[Further], length: int, until: Sequence[Until] | None) -> Tensor:
    """(B, length) the tokens through which prompts are encoded, in the columns of each text encoder."""
    place, columns = torch.arange(length), columns_of(parts, length)

    def through(name: str) -> Tensor:
        return sum((c & (place <= getattr(p, name)[:, None]) for c, p in zip(columns, parts, strict=True)), start)

    start = torch.zeros(len(parts[0].end), length, dtype=torch.bool)
    kinds = {"last": through("last"), "end": through("end"), "few": standing(parts, length), "all": ~start}
    if until is None:
        return kinds["all"]
    order = get_args(Until)
    return torch.stack([kinds[kind] for kind in order])[[order.index(kind) for kind in until], torch.arange(len(until))]


_NOT_ENCODED = (
    "states of tokens are read that were not encoded; encode with until='all' (see excise.families.base.Family.encode)."
)
