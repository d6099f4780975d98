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

from excise.attacks.base import BACKWARD_COST, Arena, Attack, AttackSettings, Control, Round
from excise.attacks.tokens import Lexicon, condition_on, lexicon, mixed_embeddings, one_hot

FINALISTS = 8  # of the words that the search visited, compared at the end


class UnlearnDiffAtkConfig(AttackSettings):
    """Settings of UnlearnDiffAtk."""

    words: int = Field(3, ge=1, description="Number of words to find (k).")
    iterations: int = Field(40, ge=1, description="Steps of the search, for each test prompt.")
    batch: int = Field(8, ge=1, description="Noised pictures of the target in a step, each at its own time.")
    lr: float = Field(0.05, gt=0, description="Learning rate of Adam on the relaxed words.")


class UnlearnDiffAtk(Attack[UnlearnDiffAtkConfig]):
    """min over words  E |f(z_t, t, [words; prompt]) - y|^2,  relaxed to the simplex, straight through."""

    access = "white box"
    Config = UnlearnDiffAtkConfig

    def control(self) -> Control:
        return Control("random", {"words": self.config.words})

    def passes(self, tests: int) -> int:
        return (BACKWARD_COST * self.config.iterations + FINALISTS) * self.config.batch * tests

    def run(self, arena: Arena) -> list[Round]:
        words = lexicon(arena.family, arena.concept.words, arena.guides.prompts)
        prompts = []
        for i, test in enumerate(arena.tests):
            best = found_words(arena, words, self.config, i)
            prompts.append([words.prompt(words.text(best), test)] * arena.images)
        return arena.draw_prompts(prompts)


def found_words(arena: Arena, words: Lexicon, config: UnlearnDiffAtkConfig, number: int) -> tuple[int, ...]:
    """Search words, and return their numbers (k,).

    Args:
        number: of the search, so that each search in an arena has its own randomness.
    """
    generator = arena.generator("unlearndiffatk", number)
    shares = torch.rand(config.words, len(words.words), generator=generator).softmax(-1).requires_grad_()
    optimiser = torch.optim.Adam([shares], lr=config.lr)
    visited: dict[tuple[int, ...], None] = {}
    for step in range(config.iterations):
        chosen = shares.argmax(-1)
        visited[tuple(chosen.tolist())] = None
        vectors = mixed_embeddings(words, one_hot(words, chosen) + shares - shares.detach())
        loss = _error(arena, words, vectors, config, generator)
        arena.descend(optimiser, loss)
        with torch.no_grad():
            shares.copy_(to_simplex(shares))
        arena.say("searching words", number * config.iterations + step + 1, len(arena.tests) * config.iterations)
    return _best(arena, words, list(visited)[-FINALISTS:], config, number)


def _error(
    arena: Arena,
    words: Lexicon,
    vectors: Mapping[str, Tensor],
    config: UnlearnDiffAtkConfig,
    generator: torch.Generator,
) -> Tensor:
    """Return the mean error on noised guides, each under its own prompt with the words added."""
    at, clean, noise, t = arena.noised(generator, config.batch)
    prompts = [words.with_placeholders(config.words, arena.guides.prompts[k]) for k in at.tolist()]
    return arena.errors(clean, noise, t, condition_on(arena.family, words, prompts, vectors)).mean()


@torch.no_grad()
def _best(
    arena: Arena, words: Lexicon, finalists: Sequence[tuple[int, ...]], config: UnlearnDiffAtkConfig, number: int
) -> tuple[int, ...]:
    """Return the finalist with the least error on one batch that is the same for all."""

    def error(numbers: tuple[int, ...]) -> float:
        vectors = mixed_embeddings(words, one_hot(words, torch.tensor(numbers)))
        return float(_error(arena, words, vectors, config, arena.generator("unlearndiffatk, finalists", number)))

    return min(finalists, key=error)


def to_simplex(rows: Tensor) -> Tensor:
    """Return the nearest point of the simplex to each row of (k, n) (Duchi et al., ICML 2008)."""
    sorted_, _ = rows.sort(dim=-1, descending=True)
    above = (sorted_.cumsum(dim=-1) - 1) / torch.arange(1, rows.shape[-1] + 1, dtype=rows.dtype)
    count = (sorted_ > above).sum(dim=-1, keepdim=True)
    return (rows - above.gather(-1, count - 1)).clamp(min=0)
