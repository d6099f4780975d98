"""Batches of SurgUn: pictures of a target and of its distractors, under the target's prompts.

One pass of the model sees m targets and m distractors, pair by pair under one prompt and one noise (SurgUn, arXiv
2603.00975).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from excise.families.base import Family
from excise.families.conditions import Condition, join
from excise.families.noising import Noising
from excise.methods.trained.surgun.adversary import Adversary
from excise.methods.trained.surgun.restoring import Restoring
from excise.methods.trained.surgun.slots import Slots
from excise.training import losses as objectives
from excise.training.adapters import Weights

OWN, FOUND = 0.25, 0.25  # shares of a hardening's steps: the target's own prompts, and those that regained it before


@dataclass(frozen=True)
class Retained:
    """Prompts of the retain loss.

    Attributes:
        condition: the prompts.
        pictures: (p, c, h, w) latents of the first p of them, as the untouched model draws them, or None.
    """

    condition: Condition
    pictures: Tensor | None = None


@dataclass(frozen=True)
class Competition:
    """One target's pictures, ready for training.

    Attributes:
        size: targets in a batch, and distractors. caption: the prompts that distractors are trained under.
        share_noise: one noise for a target and its distractor. retained: of an explicit retain loss, if any.
        restoring: prompts that regained the target before. adversary: words that are learnt meanwhile.
    """

    slots: Slots
    family: Family
    plan: Noising
    size: int
    caption: Literal["target", "own"] = "target"
    share_noise: bool = True
    retained: Retained | None = None
    restoring: tuple[Restoring, ...] = ()
    adversary: Adversary | None = None

    @property
    def plain(self) -> Competition:
        """The same under the target's own prompts alone."""
        return replace(self, restoring=(), adversary=None)

    def target_condition(self, s: Tensor, generator: torch.Generator) -> Condition:
        """Conditions for some slots: the target's own prompts, or others that regain it; an adversary learns first."""
        if self.adversary is None:
            return self.slots.condition[s]
        self.adversary.learn(generator)
        chance = float(torch.rand(1, generator=generator))
        if chance < OWN:
            return self.slots.condition[s]
        if self.restoring and chance < OWN + FOUND:
            return self.restoring[int(torch.randint(len(self.restoring), (1,), generator=generator))].condition[s]
        return self.adversary.read(s, generator)

    def batch(self, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Condition]:
        """Latents (2m, c, h, w), noise, times and conditions of m targets, then of m distractors, slot by slot."""
        m, slots = self.size, self.slots
        by_distractor = torch.randperm(len(slots.names), generator=generator).repeat(m)[:m].tolist()
        chosen = []
        for k in by_distractor:
            own = self._filled(k)
            chosen.append((k, own[int(torch.randint(len(own), (1,), generator=generator))]))
        k, s = (torch.tensor(column) for column in zip(*chosen, strict=True))
        clean = torch.cat([slots.target[s], slots.distractors[k, s]])
        noise = torch.randn(len(clean), *clean.shape[1:], generator=generator)
        if self.share_noise:
            noise = noise[:m].repeat(2, 1, 1, 1)
        t = self.plan.times(m, generator=generator).repeat(2)
        condition = self.target_condition(s, generator)
        captions = condition if self.caption == "target" else join([slots.own[a][[b]] for a, b in chosen])
        return clean, noise, t, join([condition, captions])

    def errors(self, batch: tuple[Tensor, Tensor, Tensor, Condition]) -> tuple[Tensor, Tensor]:
        """(m,) errors of the targets, and of their distractors, by one pass of the model."""
        both = objectives.errors(self.family, self.plan, *batch)
        target, distractor = both.chunk(2)
        return target, distractor

    def drift(self, generator: torch.Generator, adapter: Weights) -> Tensor:
        """L_R = E |f(z, t, c) - f_0(z, t, c)|^2 over retained prompts c.

        At noised pictures of the distractors; half of a batch at the prompts' own pictures, where there are any.
        """
        assert self.retained is not None
        m = self.size
        pictures = self.slots.distractors.flatten(0, 1)
        clean = pictures[torch.randint(len(pictures), (m,), generator=generator)]
        rows = torch.randint(len(self.retained.condition), (m,), generator=generator)
        noise = torch.randn(clean.shape, generator=generator)
        t = self.plan.times(m, generator=generator)
        if self.retained.pictures is not None:
            half = len(rows[::2])
            rows[::2] = torch.randint(len(self.retained.pictures), (half,), generator=generator)
            clean[::2] = self.retained.pictures[rows[::2]]
        condition = self.retained.condition[rows]
        noised = self.plan.add(clean, noise, t)
        with adapter.teacher(), torch.no_grad():
            before = self.family.predict(noised, t, condition)
        return (self.family.predict(noised, t, condition) - before).square().mean()

    def _filled(self, k: int) -> list[int]:
        both = self.slots.filled[0] & self.slots.filled[1 + k]
        return both.nonzero().flatten().tolist()
