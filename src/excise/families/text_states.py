"""Token states of encoded prompts, and the rows of a subject in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from excise.errors import ModelError

Until = Literal["last", "end", "all"]
"""How far a prompt is encoded: to its subject's last token, to its end token, or through all that is read."""


@dataclass(frozen=True)
class Further:
    """Columns in which the prompts stand once more, as the tokens of a further text encoder (T5 behind CLIP).

    Attributes:
        begin: the first of these columns; they reach to the next further ones, or to the end.
        first, last: (B,) first and last token of the subject among them; behind all columns where it is not there.
    """

    begin: int
    first: Tensor
    last: Tensor


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

    @property
    def states(self) -> Tensor:
        """(B, L, d) the state of each token of each prompt; zeros where the denoiser does not read."""
        known = self.at >= 0
        if bool((self.read & ~known).any()):
            raise ModelError(_NOT_ENCODED)
        return self.rows[self.at.clamp(min=0)] * known[..., None].to(self.rows)

    def chosen(self, indices: Sequence[int] | Tensor, tokens: str) -> Tensor:
        """(b, L) which tokens of some prompts a choice selects; only tokens that are read.

        Args:
            tokens: "last" (the subject's last token), "subject" (all of its tokens), "from_last" (its last token and
                all that follows, end token and padding included), "all_but_start" (all but the start token) or "all".
                The first three are of each text encoder's columns.
        """
        read, subject = self.read[indices], torch.zeros_like(self.read[indices])
        if tokens in ("all_but_start", "all"):
            return read & (read.cumsum(1) > {"all_but_start": int(self.start), "all": 0}[tokens])
        place = torch.arange(read.shape[1])
        for columns, part in zip(self.columns, self._parts, strict=True):
            first, last = part.first[indices, None], part.last[indices, None]
            inside = place >= (first if tokens == "subject" else last)
            subject |= columns & (inside if tokens == "from_last" else inside & (place <= last))
        return read & subject

    def around(self, indices: Sequence[int] | Tensor, targets: Sequence[int] | Tensor) -> Tensor:
        """(b, L) tokens around a subject: as many first ones as stand before that of `targets`, and all behind its own.

        Only tokens that are read.
        """
        read, outside = self.read[indices], torch.zeros_like(self.read[indices])
        place = torch.arange(read.shape[1])
        for columns, part in zip(self.columns, self._parts, strict=True):
            before = (self.read[targets] & columns & (place < part.first[targets, None])).sum(1, keepdim=True)
            own = read & columns
            outside |= own & ((own.cumsum(1) <= before) | (place > part.last[indices, None]))
        return outside

    @property
    def columns(self) -> list[Tensor]:
        """(L,) for each text encoder whose tokens stand one behind the other, which columns are its own."""
        place = torch.arange(self.at.shape[1])
        begins = [part.begin for part in self._parts]
        ends = [*begins[1:], len(place)]
        return [(place >= begin) & (place < end) for begin, end in zip(begins, ends, strict=True)]

    @property
    def _parts(self) -> tuple[Further, ...]:
        return (Further(0, self.first, self.last), *self.further)

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

    def span(self, index: int, tokens: str) -> Tensor:
        """(n, d): the states of prompt `index` that a choice of tokens selects (see `chosen`)."""
        return self.gather([index], self.chosen([index], tokens))


_NOT_ENCODED = (
    "states of tokens are read that were not encoded; encode with until='all' (see excise.families.base.Family.encode)."
)
