"""Concept inversion: a new word taught by pictures of the target, everything else frozen (textual inversion).

Paper:      Pham et al., "Circumventing Concept Erasure Methods For Text-to-Image Generative Models", ICLR 2024,
            arXiv 2308.01508; textual inversion is Gal et al., ICLR 2023, arXiv 2208.01618
Provenance: written from the papers; official code not used
Pitfall:    a free vector can teach what a model never knew. Only the gap to the same attack on a model that never saw
            the concept tells what was remembered.
"""

from __future__ import annotations

import re

import torch
from pydantic import Field

from excise.attacks.base import BACK, SEEDS, Access, Arena, Control, Round, Settings
from excise.attacks.tokens import lexicon, soft
from excise.concept import same


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
        word = " ".join([known.place] * config.vectors)
        texts = [in_place(arena, p, word) for p in arena.guides.prompts]
        # Begun at words drawn at random: at the mean of all words it hardly learns.
        generator = arena.generator("inversion")
        first = torch.randint(len(known.words), (config.vectors,), generator=generator)
        vectors = {name: rows[first].clone().requires_grad_() for name, rows in known.rows.items()}
        optimiser = torch.optim.AdamW(vectors.values(), lr=config.lr)
        for step in range(config.iterations):
            at, clean, noise, t = arena.noised(generator, config.batch)
            condition = soft(arena.family, known, [texts[i] for i in at.tolist()], vectors)
            loss = arena.errors(clean, noise, t, condition).mean()
            arena.descend(optimiser, loss)
            arena.say("learning a word", step + 1, config.iterations)
        with torch.no_grad():
            rows_ = [
                soft(arena.family, known, [in_place(arena, test, word)], vectors)[[0] * arena.images]
                for test in arena.tests
            ]
        return arena.conditions(rows_)


def in_place(arena: Arena, prompt: str, word: str) -> str:
    """A prompt with the target's name taken by another word."""
    for name in sorted(arena.concept.words, key=len, reverse=True):
        found, count = re.subn(rf"(?<!\w){re.escape(same(name))}(?!\w)", word, prompt.lower(), count=1)
        if count:
            return found
    return f"{prompt} {word}"
