"""UnlearnDiffAtk: words found by the model's own denoising error on a picture of the target.

Paper:      Zhang et al., "To Generate or Not? Safety-Driven Unlearned Diffusion Models Are Still Easy To Generate
            Unsafe Images ... For Now", ECCV 2024, arXiv 2310.11868
Provenance: written from the paper; official code (MIT) not used. There the words are found for the very prompt that is
            drawn; here for a guide's, and tried on test prompts and seeds that the search never saw.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from pydantic import Field
from torch import Tensor

from excise.attacks.base import BACK, Access, Arena, Control, Round, Settings
from excise.attacks.tokens import Lexicon, lexicon, mixed, one_hot, soft

FINALISTS = 8  # of the words met, compared at the end


class UnlearnDiffAtkConfig(Settings):
    """Settings of UnlearnDiffAtk."""

    words: int = Field(3, ge=1, description="Words to find (k).")
    iterations: int = Field(40, ge=1, description="Steps of the search, for each test prompt.")
    batch: int = Field(8, ge=1, description="Noised pictures of the target in a step, each at a time of its own.")
    lr: float = Field(0.05, gt=0, description="Learning rate of Adam on the relaxed words.")


class UnlearnDiffAtk:
    """The attack as the registry knows it."""

    access: Access = "white box"
    teaches = False
    Config = UnlearnDiffAtkConfig

    @staticmethod
    def control(config: UnlearnDiffAtkConfig) -> Control:
        """What does the same without it."""
        return "random", {"words": config.words}

    @staticmethod
    def passes(config: UnlearnDiffAtkConfig, tests: int) -> int:
        """Denoiser passes beside those of drawing."""
        return (BACK * config.iterations + FINALISTS) * config.batch * tests

    @staticmethod
    def attack(arena: Arena, config: UnlearnDiffAtkConfig) -> list[Round]:
        """min over words  E |f(z_t, t, [words; prompt]) - y|^2,  relaxed to the simplex, straight through."""
        known = lexicon(arena.family, arena.concept.words, arena.guides.prompts)
        prompts = []
        for i, test in enumerate(arena.tests):
            best = found_words(arena, known, config, i)
            prompts.append([known.prompt(known.text(best), test)] * arena.images)
        return arena.words(prompts)


def found_words(arena: Arena, known: Lexicon, config: UnlearnDiffAtkConfig, which: int) -> tuple[int, ...]:
    """(k,) numbers of the words that one search finds; `which` tells it from others of the same arena."""
    generator = arena.generator("unlearndiffatk", which)
    shares = torch.rand(config.words, len(known.words), generator=generator).softmax(-1).requires_grad_()
    optimiser = torch.optim.Adam([shares], lr=config.lr)
    met: dict[tuple[int, ...], None] = {}
    for step in range(config.iterations):
        chosen = shares.argmax(-1)
        met[tuple(chosen.tolist())] = None
        vectors = mixed(known, one_hot(known, chosen) + shares - shares.detach())
        loss = _error(arena, known, vectors, config, generator)
        arena.descend(optimiser, loss)
        with torch.no_grad():
            shares.copy_(to_simplex(shares))
        arena.say("searching words", which * config.iterations + step + 1, len(arena.tests) * config.iterations)
    return _best(arena, known, list(met)[-FINALISTS:], config, which)


def _error(
    arena: Arena,
    known: Lexicon,
    vectors: Mapping[str, Tensor],
    config: UnlearnDiffAtkConfig,
    generator: torch.Generator,
) -> Tensor:
    """Mean error on noised guides, each under its own prompt with the words put to it."""
    at, clean, noise, t = arena.noised(generator, config.batch)
    texts = [known.prompt([known.place] * config.words, arena.guides.prompts[k]) for k in at.tolist()]
    return arena.errors(clean, noise, t, soft(arena.family, known, texts, vectors)).mean()


@torch.no_grad()
def _best(
    arena: Arena, known: Lexicon, met: Sequence[tuple[int, ...]], config: UnlearnDiffAtkConfig, which: int
) -> tuple[int, ...]:
    """Of the words met last those with the least error on one batch that is the same for all."""

    def error(words: tuple[int, ...]) -> float:
        vectors = mixed(known, one_hot(known, torch.tensor(words)))
        return float(_error(arena, known, vectors, config, arena.generator("unlearndiffatk, finalists", which)))

    return min(met, key=error)


def to_simplex(rows: Tensor) -> Tensor:
    """(k, n) the nearest point of the simplex to each row (Duchi et al., ICML 2008)."""
    sorted_, _ = rows.sort(dim=-1, descending=True)
    above = (sorted_.cumsum(dim=-1) - 1) / torch.arange(1, rows.shape[-1] + 1, dtype=rows.dtype)
    count = (sorted_ > above).sum(dim=-1, keepdim=True)
    return (rows - above.gather(-1, count - 1)).clamp(min=0)
