"""Ring-A-Bell: prompts whose text states hold what a concept adds to any prompt; it needs the text encoder alone.

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

from excise.attacks.base import SEEDS, Arena, Attack, AttackError, AttackSettings, Control, Round
from excise.attacks.inversion import with_target_replaced
from excise.attacks.tokens import Lexicon, lexicon, put_to, words_first
from excise.families.base import Family
from excise.families.conditions import Condition

ZERO = torch.zeros(())
MOST_OTHERS = 8  # names that stand for the target's absence


class RingABellConfig(AttackSettings):
    """Settings of Ring-A-Bell."""

    form: Literal["words", "continuous"] = Field("words", description="Search words, or draw from the states directly.")
    strength: float = Field(1.0, gt=0, description="How much of the concept is added to a prompt (eta).")
    words: int = Field(8, ge=1, description="Number of words to find (K).")
    population: int = Field(64, ge=4, description="Prompts in a generation.")
    generations: int = Field(100, ge=1, description="Generations of the search, for each test prompt.")
    mutation: float = Field(0.25, ge=0, le=1, description="Share of the children that change a word.")
    crossover: float = Field(0.5, ge=0, le=1, description="Share of the children with two parents.")


class RingABell(Attack[RingABellConfig]):
    """v = mean(E(prompt with the target) - E(prompt without)); words nearest to E(prompt without) + eta v."""

    access = "text encoder"
    Config = RingABellConfig

    def control(self) -> Control:
        return Control("random", {"words": self.config.words}) if self.config.form == "words" else SEEDS

    def run(self, arena: Arena) -> list[Round]:
        config, others = self.config, list(arena.others)[:MOST_OTHERS]
        if not others:
            raise AttackError("Ring-A-Bell needs names of other things of the target's kind; give --other NAME.")
        if config.form == "continuous":
            return arena.draw_conditions(
                [
                    _with_concept_added(arena, arena.family, test, others, config)[[0] * arena.images]
                    for test in arena.tests
                ]
            )
        texts = arena.search_once(f"ring-a-bell {config!r}", lambda: _search_all(arena, others, config))
        front = words_first(arena.family)
        pairs = zip(texts, arena.tests, strict=True)
        return arena.draw_prompts([[put_to(text, test, front)] * arena.images for text, test in pairs])


def _search_all(arena: Arena, others: list[str], config: RingABellConfig) -> list[str]:
    """Search words for each test prompt on the untouched model."""
    with arena.original() as untouched:
        words = lexicon(untouched, arena.concept.words)
        rows = []
        for i in range(len(arena.tests)):
            guide = arena.guides.prompts[i % len(arena.guides.prompts)]
            target = _with_concept_added(arena, untouched, guide, others, config)
            rows.append(_evolve(arena, untouched, words, target, config, i).tolist())
    return [" ".join(words.text(row)) for row in rows]


def _with_concept_added(
    arena: Arena, family: Family, prompt: str, others: list[str], config: RingABellConfig
) -> Condition:
    """Return the states of a prompt without the target, plus what the concept adds: a condition of one row."""
    prompts = [prompt, *arena.guides.prompts]
    with_target = family.condition(prompts).inputs
    without = family.condition([with_target_replaced(arena, p, o) for p in prompts for o in others]).inputs
    inputs = {}
    for name, states in with_target.items():
        if not states.is_floating_point():  # an attention mask: that of the prompt without the target
            inputs[name] = without[name][:1]
            continue
        absent = without[name].unflatten(0, (len(prompts), len(others))).mean(dim=1)
        v = (states - absent)[1:].mean(dim=0, keepdim=True)
        inputs[name] = absent[:1] + config.strength * v
    return Condition(inputs)


@torch.no_grad()
def _evolve(
    arena: Arena, family: Family, words: Lexicon, target: Condition, config: RingABellConfig, number: int
) -> Tensor:
    """Return the numbers (K,) of words whose states lie nearest to the target's: a genetic search, one batch a
    generation."""
    generator = arena.generator("ring-a-bell", number)
    n, size = len(words.words), config.population

    def integers(high: int, *shape: int) -> Tensor:
        return torch.randint(high, shape, generator=generator)

    def chance(share: float, *shape: int) -> Tensor:
        return torch.rand(shape, generator=generator) < share

    def distances(rows: Tensor) -> Tensor:
        inputs = family.condition([" ".join(words.text(r)) for r in rows.tolist()]).inputs
        return sum(
            (_distance(x, target.inputs[name], inputs) for name, x in inputs.items() if x.is_floating_point()), ZERO
        )

    population = integers(n, size, config.words)
    scores = distances(population)
    for generation in range(config.generations):
        best = scores.argsort()[: size // 2]
        parents, parent_scores = population[best], scores[best]
        one, two = (parents[integers(len(parents), size - len(parents))] for _ in range(2))
        take = chance(0.5, *one.shape) & chance(config.crossover, len(one), 1)
        children = torch.where(take, two, one)
        spot = torch.nn.functional.one_hot(integers(config.words, len(children)), config.words).bool()
        spot &= chance(config.mutation, len(children), 1)
        children = torch.where(spot, integers(n, *children.shape), children)
        population, scores = torch.cat([parents, children]), torch.cat([parent_scores, distances(children)])
        arena.say("breeding words", generation + 1, config.generations)
    return population[scores.argmin()]


def _distance(states: Tensor, target: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
    """Return (B,) the mean squared distance of pooled states, or of the token states that `inputs` does not mask."""
    if states.ndim == 2:
        return (states - target).square().mean(dim=1).cpu()
    length = min(states.shape[1], target.shape[1])
    apart = (states[:, :length] - target[:, :length]).square().flatten(2).mean(dim=2)
    mask = next((m[:, :length].to(apart) for m in inputs.values() if not m.is_floating_point()), torch.ones_like(apart))
    return ((apart * mask).sum(dim=1) / mask.sum(dim=1)).cpu()
