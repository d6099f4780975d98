"""Token states of encoded prompts, and the rows of a subject in them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class TextStates:
    """Encoded prompts, and the positions of their subjects.

    Padding may stand on either side of a prompt or inside it; `read` alone tells which rows count.

    Attributes:
        states: (B, L, d) what the token-reading projections read.
        first, last: (B,) first and last token of the subject.
        end: (B,) the end token, or the last token of the prompt where the model has no end token.
        read: (B, L) True where the denoiser reads the row, padding included where the model reads that (CLIP, T5).
        pooled: (B, p) what the projections of the whole prompt read, in families that have such.
        start: whether the first row that is read is a start token, the same in every prompt.
    """

    states: Tensor
    first: Tensor
    last: Tensor
    end: Tensor
    read: Tensor
    pooled: Tensor | None = None
    start: bool = True

    def context(self, index: int, before: int) -> Tensor:
        """(n, d): of prompt `index`, the first `before` states that are read and all that follow its subject."""
        rows = self._rows(index)
        after = rows[rows > int(self.last[index])]
        return self.states[index, torch.cat([rows[:before], after])]

    def span(self, index: int, tokens: str) -> Tensor:
        """(n, d): the states of prompt `index` that a choice of tokens selects; only rows that are read.

        Args:
            tokens: "last" (the subject's last token), "subject" (all of its tokens), "from_last" (its last token and
                all that follows, end token and padding included), "all_but_start" (all but the start token) or "all".
        """
        rows, last = self._rows(index), int(self.last[index])
        chosen = {
            "last": rows[rows == last],
            "subject": rows[(rows >= int(self.first[index])) & (rows <= last)],
            "from_last": rows[rows >= last],
            "all_but_start": rows[int(self.start) :],
            "all": rows,
        }[tokens]
        return self.states[index, chosen]

    def _rows(self, index: int) -> Tensor:
        """(n,): the rows of prompt `index` that are read."""
        return self.read[index].nonzero()[:, 0].to(self.states.device)
