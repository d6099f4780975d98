"""Weights of which only the entries that matter for a concept are trained; the others stay what they were, bit for bit.

SalUn (arXiv 2310.12508, eq. 5) trains the entries whose summed gradient of a forget loss is largest; Sculpting Memory
(arXiv 2504.09039) changes some of the chosen entries for others on the way. A mask on gradients alone would not do:
the optimiser's momentum and weight decay move entries without gradients too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from excise.errors import SettingError
from excise.families.base import Family
from excise.training.adapters import FullWeights

Within = Literal["all", "map"]


class Masked(FullWeights):
    """The weights themselves, of which those outside a mask are set back after every step.

    Args:
        family: its networks are changed inside the `with` block only.
        paths: of the modules whose weights are trained.
        turnover: share of the chosen entries of a map that is exchanged at first, less and less until the end; 0 never.
        every: steps between exchanges. steps: of the training in all.
    """

    def __init__(
        self, family: Family, paths: Sequence[str], *, turnover: float = 0.0, every: int = 100, steps: int = 1
    ) -> None:
        super().__init__(family, paths)
        self._turnover, self._every, self._steps = turnover, every, steps
        self._masks: dict[str, Tensor] = {}
        self._done = 0

    @property
    def masks(self) -> Mapping[str, Tensor]:
        """By path, which entries are trained; empty before they are chosen."""
        return self._masks

    def choose(self, saliency: Mapping[str, Tensor], share: float, within: Within) -> None:
        """Train the entries of largest saliency.

        Args:
            saliency: by path, a number at least 0 for each entry.
            share: of the entries that are trained. within: of all maps together, or of each alone.

        Raises:
            SettingError: no entry has any.
        """
        self._masks = largest(saliency, share, within)
        if not any(bool(m.any()) for m in self._masks.values()):
            raise SettingError(
                "the mask leaves nothing to train: no weight has a gradient of the forget loss; choose other maps, "
                "more of them (--set mask_share=...), or --set mask=none."
            )

    @torch.no_grad()
    def settle(self, rate: float) -> None:
        """Set everything outside the mask back to what it was, and exchange entries where it is time to."""
        self._done += 1
        if self._turnover and self._done % self._every == 0 and self._done < self._steps:
            left = self._turnover * (1 - self._done / self._steps)
            for path, mask in self._masks.items():
                gradient = self._copies[path].grad
                if gradient is not None:
                    self._masks[path] = exchanged(mask, gradient.abs(), left)
        for path, mask in self._masks.items():
            self._copies[path].copy_(
                torch.where(mask, self._copies[path], self._originals[path].to(self._copies[path]))
            )

    def state_dict(self) -> dict[str, Any]:
        """The mask, and how many steps are done."""
        return {"masks": dict(self._masks), "done": self._done}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with a mask."""
        self._masks = {path: mask.to(self._copies[path].device) for path, mask in state["masks"].items()}
        self._done = int(state["done"])


def saliency(
    weights: FullWeights, loss: Callable[[torch.Generator], Tensor], passes: int, seed: int
) -> dict[str, Tensor]:
    """|sum of the gradients of a loss over some batches|, by path (SalUn; the sum, not the sizes, of the gradients).

    Args:
        loss: of one batch.
    """
    total = {name: torch.zeros_like(p) for name, p in weights.parameters.items()}
    for i in range(passes):
        value = loss(torch.Generator().manual_seed(seed * 1_000_003 + i))
        gradients = torch.autograd.grad(value, [*weights.parameters.values()], allow_unused=True)
        for name, gradient in zip(total, gradients, strict=True):
            if gradient is not None:
                total[name] += gradient
    return {name.removesuffix(".weight"): t.abs() for name, t in total.items()}


def largest(saliency: Mapping[str, Tensor], share: float, within: Within) -> dict[str, Tensor]:
    """By path, the entries above the (1 - share) quantile of all maps together, or of each; none that is zero."""

    def above(values: Tensor, bound: Tensor) -> Tensor:
        return (values >= bound) & (values > 0)

    def bound(values: Tensor) -> Tensor:
        count = max(1, round(share * values.numel()))
        return values.flatten().kthvalue(values.numel() - count + 1).values

    if within == "map":
        return {path: above(v, bound(v)) for path, v in saliency.items()}
    whole = bound(torch.cat([v.flatten() for v in saliency.values()]))
    return {path: above(v, whole) for path, v in saliency.items()}


def exchanged(mask: Tensor, gradient: Tensor, share: float) -> Tensor:
    """A mask in which a share of the chosen entries, those of smallest gradient, gave way to the largest others."""
    count = min(round(share * int(mask.sum())), int((~mask).sum()))
    if count == 0:
        return mask
    out = gradient.masked_fill(~mask, torch.inf).flatten().topk(count, largest=False).indices
    into = gradient.masked_fill(mask, -torch.inf).flatten().topk(count).indices
    flat = mask.flatten().clone()
    flat[out], flat[into] = False, True
    return flat.view_as(mask)
