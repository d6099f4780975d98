"""New words that are learnt to regain a target while the training works against them.

Words learnt before a training soon lose their effect, and new ones regain the target as before. Here they take a
step of learning (as in concept inversion, arXiv 2308.01508) whenever the model takes one of training: adversarial
training that carries its adversary over from step to step (Shafahi et al., NeurIPS 2019, arXiv 1904.12843). One after
another begins anew at words drawn at random, as an attack would.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from excise.attacks.base import Arena
from excise.attacks.inversion import InversionConfig, begun, read_as
from excise.attacks.tokens import Lexicon
from excise.families.conditions import Condition

WORDS, EACH = 8, 2  # new words at a time, and pictures that each sees in a step
LIFE = 160  # steps of a word, until it begins anew


@dataclass
class _Word:
    vectors: dict[str, Tensor]  # by encoder (k, e)
    optimiser: torch.optim.Optimizer


class Adversary:
    """New words that stand in place of a target's name; each began at another step.

    Args:
        arena: the model as it is while it is trained; words learn from its guides.
        generator: draws what they begin at; later draws are of those that training passes in.
    """

    def __init__(self, arena: Arena, known: Lexicon, config: InversionConfig, generator: torch.Generator) -> None:
        self.arena, self.known, self.config = arena, known, config
        self.words = [self._begun(generator) for _ in range(WORDS)]
        self.steps = 0

    def learn(self, generator: torch.Generator) -> None:
        """One step: each word lowers the model's error on pictures of the target; the model gets no gradient."""
        at, clean, noise, t = self.arena.noised(generator, WORDS * EACH)
        vectors = [v for w in self.words for v in w.vectors.values()]
        parts = []
        for rows in torch.arange(len(at)).chunk(EACH):  # a word once in each, for memory's sake
            condition = self._read(at[rows], torch.arange(WORDS))
            error = self.arena.errors(clean[rows], noise[rows], t[rows], condition).mean()
            if bool(torch.isfinite(error)):  # else the loop of training leaves the step out as well, and counts it
                parts.append(self.arena.gradients(error, vectors))
        if len(parts) == EACH:
            for v, gradients in zip(vectors, zip(*parts, strict=True), strict=True):
                v.grad = torch.stack(gradients).mean(dim=0)
            for word in self.words:
                word.optimiser.step()
        self.steps += 1
        turn, rest = divmod(self.steps, LIFE // WORDS)
        if rest == 0:
            self.words[turn % WORDS] = self._begun(generator)

    @torch.no_grad()
    def read(self, at: Tensor, generator: torch.Generator) -> Condition:
        """Prompts of the guides by their numbers, each with any of the words."""
        condition = self._read(at, torch.randint(WORDS, (len(at),), generator=generator))
        return condition.to(torch.device("cpu"), torch.float32)

    def state_dict(self) -> dict[str, Any]:
        """Steps and words, so that an interrupted training goes on with them."""
        words = [
            {"vectors": {n: v.detach() for n, v in w.vectors.items()}, "optimiser": w.optimiser.state_dict()}
            for w in self.words
        ]
        return {"steps": self.steps, "words": words}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        self.steps = state["steps"]
        for word, kept in zip(self.words, state["words"], strict=True):
            with torch.no_grad():
                for name, v in word.vectors.items():
                    v.copy_(kept["vectors"][name])
            word.optimiser.load_state_dict(kept["optimiser"])

    def _begun(self, generator: torch.Generator) -> _Word:
        return _Word(*begun(self.known, self.config, generator))

    def _read(self, at: Tensor, who: Tensor) -> Condition:
        prompts = [self.arena.guides.prompts[i] for i in at.tolist()]
        vectors = {name: torch.stack([self.words[i].vectors[name] for i in who.tolist()]) for name in self.known.rows}
        return read_as(self.arena, self.known, vectors, prompts)
