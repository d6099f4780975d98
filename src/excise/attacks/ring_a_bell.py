"""Ring-A-Bell: prompts whose text states are what a concept adds to any prompt; the text encoder is all it looks at.

Paper:      Tsai et al., "Ring-A-Bell! How Reliable are Concept Removal Methods For Diffusion Models?", ICLR 2024,
            arXiv 2310.10012, eq. 2 and algorithm 1; the continuous variant is the one of RECE's evaluation
            (arXiv 2407.12383)
Provenance: written from the papers; official code not used
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from excise.attacks.base import SEEDS, Access, Arena, AttackError, Control, Round, Settings
from excise.attacks.inversion import in_place
from excise.attacks.tokens import Lexicon, lexicon, put_to, words_first
from excise.families.base import Condition, Family

ZERO = torch.zeros(())
MOST_OTHERS = 8  # names that stand for the target's absence


class RingABellConfig(Settings):
    """Settings of Ring-A-Bell."""

    form: Literal["words", "continuous"] = Field("words", description="Search words, or hand the states themselves on.")
    strength: float = Field(1.0, gt=0, description="How much of the concept is put to a prompt (eta).")
    words: int = Field(8, ge=1, description="Words to find (K).")
    population: int = Field(64, ge=4, description="Prompts alive at a time.")
    generations: int = Field(100, ge=1, description="Of the search, for each test prompt.")
    mutation: float = Field(0.25, ge=0, le=1, description="Share of the children that change a word.")
    crossover: float = Field(0.5, ge=0, le=1, description="Share of the children with two parents.")


class RingABell:
    """The attack as the registry knows it."""

    access: Access = "text encoder"
    teaches = False
    Config = RingABellConfig

    @staticmethod
    def control(config: RingABellConfig) -> Control:
        """What does the same without it."""
        return ("random", {"words": config.words}) if config.form == "words" else SEEDS

    @staticmethod
    def passes(config: RingABellConfig, tests: int) -> int:
        """Denoiser passes beside those of drawing."""
        return 0

    @staticmethod
    def attack(arena: Arena, config: RingABellConfig) -> list[Round]:
        """v = mean(E(prompt with the target) - E(prompt without)); words nearest to E(prompt without) + eta v.

        Raises:
            AttackError: no other names are known, whose prompts are those without the target.
        """
        others = list(arena.others)[:MOST_OTHERS]
        if not others:
            raise AttackError("Ring-A-Bell needs names of other things of the target's kind; give --other NAME.")
        if config.form == "continuous":
            return arena.conditions(
                [_added(arena, arena.family, test, others, config)[[0] * arena.images] for test in arena.tests]
            )
        found = arena.recall(f"ring-a-bell {config!r}", lambda: _searches(arena, others, config))
        front = words_first(arena.family)
        return arena.words([[put_to(w, t, front)] * arena.images for w, t in zip(found, arena.tests, strict=True)])


def _searches(arena: Arena, others: list[str], config: RingABellConfig) -> list[str]:
    """Words for each test prompt, found on the untouched model."""
    with arena.original() as untouched:
        known = lexicon(untouched, arena.concept.words)
        rows = []
        for i in range(len(arena.tests)):
            guide = arena.guides.prompts[i % len(arena.guides.prompts)]
            wanted = _added(arena, untouched, guide, others, config)
            rows.append(_evolved(arena, untouched, known, wanted, config, i).tolist())
    return [" ".join(known.text(row)) for row in rows]


def _added(arena: Arena, family: Family, prompt: str, others: list[str], config: RingABellConfig) -> Condition:
    """(1 row) what is read of a prompt without the target, and the concept added to it."""
    pairs = [prompt, *arena.guides.prompts]
    withs = family.condition(pairs).inputs
    without = family.condition([in_place(arena, p, o) for p in pairs for o in others]).inputs
    found = {}
    for name, states in withs.items():
        if not states.is_floating_point():  # what is read: as of the prompt without the target
            found[name] = without[name][:1]
            continue
        absent = without[name].unflatten(0, (len(pairs), len(others))).mean(dim=1)
        v = (states - absent)[1:].mean(dim=0, keepdim=True)
        found[name] = absent[:1] + config.strength * v
    return Condition(found)


@torch.no_grad()
def _evolved(
    arena: Arena, family: Family, known: Lexicon, wanted: Condition, config: RingABellConfig, which: int
) -> Tensor:
    """(K,) numbers of the words whose states lie nearest to those wanted: a genetic search, a generation a batch."""
    generator = arena.generator("ring-a-bell", which)
    n, size = len(known.words), config.population

    def drawn(high: int, *shape: int) -> Tensor:
        return torch.randint(high, shape, generator=generator)

    def chance(share: float, *shape: int) -> Tensor:
        return torch.rand(shape, generator=generator) < share

    def unlike(rows: Tensor) -> Tensor:
        found = family.condition([" ".join(known.text(r)) for r in rows.tolist()]).inputs
        return sum((_apart(x, wanted.inputs[name], found) for name, x in found.items() if x.is_floating_point()), ZERO)

    alive = drawn(n, size, config.words)
    scores = unlike(alive)
    for generation in range(config.generations):
        parents = alive[scores.argsort()[: size // 2]]
        one, two = (parents[drawn(len(parents), size - len(parents))] for _ in range(2))
        take = chance(0.5, *one.shape) & chance(config.crossover, len(one), 1)
        children = torch.where(take, two, one)
        spot = torch.nn.functional.one_hot(drawn(config.words, len(children)), config.words).bool()
        spot &= chance(config.mutation, len(children), 1)
        children = torch.where(spot, drawn(n, *children.shape), children)
        left = scores[scores.argsort()[: size // 2]]
        alive, scores = (
            torch.cat([parents, children]),
            torch.cat([left, unlike(children)]),
        )
        arena.say("breeding words", generation + 1, config.generations)
    return alive[scores.argmin()]


def _apart(states: Tensor, wanted: Tensor, found: Mapping[str, Tensor]) -> Tensor:
    """(B,) mean squared distance of states, of those that are read, or of pooled prompts."""
    if states.ndim == 2:
        return (states - wanted).square().mean(dim=1).cpu()
    length = min(states.shape[1], wanted.shape[1])
    apart = (states[:, :length] - wanted[:, :length]).square().mean(dim=2)
    read = next((m[:, :length].to(apart) for m in found.values() if not m.is_floating_point()), torch.ones_like(apart))
    return ((apart * read).sum(dim=1) / read.sum(dim=1)).cpu()
