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
    """

    rows: Tensor
    at: Tensor
    first: Tensor
    last: Tensor
    end: Tensor
    read: Tensor
    pooled: Tensor | None = None
    start: bool = True

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
    ) -> TextStates:
        """Of states (B, L, d), each token's own."""
        at = torch.arange(states.shape[0] * states.shape[1]).view(states.shape[:2])
        return cls(states.flatten(0, 1), at, first, last, end, read.cpu(), pooled, start)

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
        """
        read, first, last = self.read[indices], self.first[indices, None], self.last[indices, None]
        place = torch.arange(read.shape[1])
        if tokens == "last":
            return read & (place == last)
        if tokens == "subject":
            return read & (place >= first) & (place <= last)
        if tokens == "from_last":
            return read & (place >= last)
        return read & (read.cumsum(1) > {"all_but_start": int(self.start), "all": 0}[tokens])

    def around(self, indices: Sequence[int] | Tensor, before: Tensor) -> Tensor:
        """(b, L) of some prompts, the first `before` (b,) tokens that are read and all that follow the subject."""
        read = self.read[indices]
        after = torch.arange(read.shape[1]) > self.last[indices, None]
        return read & ((read.cumsum(1) <= before[:, None]) | after)

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
