"""Concept inversion: teach a new word with pictures of the target, everything else frozen (textual inversion).

Paper:      Pham et al., "Circumventing Concept Erasure Methods For Text-to-Image Generative Models", ICLR 2024,
            arXiv 2308.01508; textual inversion is Gal et al., ICLR 2023, arXiv 2208.01618
Provenance: written from the papers; official code not used
Pitfall:    a free vector can teach what a model never knew. Only the gap to the same attack on a model that never saw
            the concept tells what was remembered.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
from pydantic import Field
from torch import Tensor

from excise.attacks.base import BACKWARD_COST, Arena, Attack, AttackSettings, Round
from excise.attacks.tokens import Lexicon, condition_on, lexicon
from excise.concepts.concept import normalise_name
from excise.families.conditions import Condition


class InversionConfig(AttackSettings):
    """Settings of concept inversion."""

    vectors: int = Field(3, ge=1, description="Vectors of the new word (k).")
    iterations: int = Field(150, ge=1, description="Training steps.")
    batch: int = Field(8, ge=1, description="Noised pictures in a step.")
    lr: float = Field(0.03, gt=0, description="Learning rate of AdamW.")


class ConceptInversion(Attack[InversionConfig]):
    """min over vectors  E |f(z_t, t, prompt with the new word) - y|^2  on the guides."""

    access = "white box"
    teaches = True
    Config = InversionConfig

    def passes(self, tests: int) -> int:
        return BACKWARD_COST * self.config.iterations * self.config.batch

    def run(self, arena: Arena) -> list[Round]:
        words = lexicon(arena.family, (), [*arena.guides.prompts, *arena.tests])
        vectors = learnt(arena, words, self.config)
        with torch.no_grad():
            rows = [read_as(arena, words, vectors, [test])[[0] * arena.images] for test in arena.tests]
        return arena.draw_conditions(rows)


def learnt(arena: Arena, words: Lexicon, config: InversionConfig, *which: object) -> dict[str, Tensor]:
    """Learn a new word for the target, and return its vectors (k, e) by text encoder.

    Args:
        which: names the word, so that each word of an arena has its own randomness.
    """
    generator = arena.generator("inversion", *which)
    vectors, optimiser = begun(words, config, generator)
    for step in range(config.iterations):
        at, clean, noise, t = arena.noised(generator, config.batch)
        condition = read_as(arena, words, vectors, [arena.guides.prompts[i] for i in at.tolist()])
        arena.descend(optimiser, arena.errors(clean, noise, t, condition).mean())
        arena.say("learning a word", step + 1, config.iterations)
    return {name: rows.detach() for name, rows in vectors.items()}


def begun(
    words: Lexicon, config: InversionConfig, generator: torch.Generator
) -> tuple[dict[str, Tensor], torch.optim.Optimizer]:
    """Return the initial vectors (k, e) of a new word, by text encoder, and their optimiser.

    They start at words drawn at random; started at the mean of all words they hardly learn.
    """
    first = torch.randint(len(words.words), (config.vectors,), generator=generator)
    vectors = {name: rows[first].clone().requires_grad_() for name, rows in words.rows.items()}
    return vectors, torch.optim.AdamW(vectors.values(), lr=config.lr)


def read_as(arena: Arena, words: Lexicon, vectors: Mapping[str, Tensor], prompts: Sequence[str]) -> Condition:
    """Return the condition of prompts in which vectors stand in place of the target's name.

    Args:
        vectors: by text encoder (k, e) for all prompts, or (B, k, e).
    """
    word = " ".join([words.placeholder] * next(iter(vectors.values())).shape[-2])
    return condition_on(arena.family, words, [with_target_replaced(arena, p, word) for p in prompts], vectors)


def with_target_replaced(arena: Arena, prompt: str, word: str) -> str:
    """Return a prompt with the target's name replaced by a word, or with the word at its end where no name is in it."""
    for name in sorted(arena.concept.words, key=len, reverse=True):
        replaced, count = re.subn(rf"(?<!\w){re.escape(normalise_name(name))}(?!\w)", word, prompt.lower(), count=1)
        if count:
            return replaced
    return f"{prompt} {word}"
