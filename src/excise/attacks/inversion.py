"""Concept inversion: a new word taught by pictures of the target, everything else frozen (textual inversion).

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

from excise.attacks.base import BACK, SEEDS, Access, Arena, Control, Round, Settings
from excise.attacks.tokens import Lexicon, lexicon, soft
from excise.concepts.concept import same
from excise.families.base import Condition


class InversionConfig(Settings):
    """Settings of concept inversion."""

    vectors: int = Field(3, ge=1, description="Vectors of the new word.")
    iterations: int = Field(150, ge=1, description="Steps of training.")
    batch: int = Field(8, ge=1, description="Noised pictures in a step.")
    lr: float = Field(0.03, gt=0, description="Learning rate of AdamW.")


class ConceptInversion:
    """The attack as the registry knows it."""

    access: Access = "white box"
    teaches = True
    Config = InversionConfig

    @staticmethod
    def control(config: InversionConfig) -> Control:
        """What does the same without it."""
        return SEEDS

    @staticmethod
    def passes(config: InversionConfig, tests: int) -> int:
        """Denoiser passes beside those of drawing."""
        return BACK * config.iterations * config.batch

    @staticmethod
    def attack(arena: Arena, config: InversionConfig) -> list[Round]:
        """min over vectors  E |f(z_t, t, prompt with the new word) - y|^2  on the guides."""
        known = lexicon(arena.family, (), [*arena.guides.prompts, *arena.tests])
        vectors = learnt(arena, known, config)
        with torch.no_grad():
            rows = [read_as(arena, known, vectors, [test])[[0] * arena.images] for test in arena.tests]
        return arena.conditions(rows)


def learnt(arena: Arena, known: Lexicon, config: InversionConfig, *which: object) -> dict[str, Tensor]:
    """By encoder (k, e): the vectors of a new word for the target; `which` tells it from others of the same arena."""
    generator = arena.generator("inversion", *which)
    vectors, optimiser = begun(known, config, generator)
    for step in range(config.iterations):
        at, clean, noise, t = arena.noised(generator, config.batch)
        condition = read_as(arena, known, vectors, [arena.guides.prompts[i] for i in at.tolist()])
        arena.descend(optimiser, arena.errors(clean, noise, t, condition).mean())
        arena.say("learning a word", step + 1, config.iterations)
    return {name: rows.detach() for name, rows in vectors.items()}


def begun(
    known: Lexicon, config: InversionConfig, generator: torch.Generator
) -> tuple[dict[str, Tensor], torch.optim.Optimizer]:
    """By encoder (k, e) the vectors of a new word, and their optimiser.

    They begin at words drawn at random: at the mean of all words they hardly learn.
    """
    first = torch.randint(len(known.words), (config.vectors,), generator=generator)
    vectors = {name: rows[first].clone().requires_grad_() for name, rows in known.rows.items()}
    return vectors, torch.optim.AdamW(vectors.values(), lr=config.lr)


def read_as(arena: Arena, known: Lexicon, vectors: Mapping[str, Tensor], prompts: Sequence[str]) -> Condition:
    """What is read of prompts in which vectors, (k, e) for all or (B, k, e), stand instead of the target's name."""
    word = " ".join([known.place] * next(iter(vectors.values())).shape[-2])
    return soft(arena.family, known, [in_place(arena, p, word) for p in prompts], vectors)


def in_place(arena: Arena, prompt: str, word: str) -> str:
    """A prompt with the target's name taken by another word."""
    for name in sorted(arena.concept.words, key=len, reverse=True):
        found, count = re.subn(rf"(?<!\w){re.escape(same(name))}(?!\w)", word, prompt.lower(), count=1)
        if count:
            return found
    return f"{prompt} {word}"
