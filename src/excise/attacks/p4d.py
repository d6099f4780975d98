"""P4D: words under which the erased model predicts what the untouched one predicts for the plain prompt.

Paper:      Chin et al., "Prompting4Debugging: Red-Teaming Text-to-Image Diffusion Models by Finding Problematic
            Prompts", ICML 2024, arXiv 2309.06135; projected gradients: Wen et al., NeurIPS 2023, arXiv 2302.03668
Provenance: written from the papers; official code not used
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from excise.attacks.base import BACKWARD_COST, Arena, Attack, AttackSettings, Control, Round
from excise.attacks.tokens import Lexicon, condition_on, lexicon, mixed_embeddings, one_hot


class P4DConfig(AttackSettings):
    """Settings of P4D."""

    words: int = Field(8, ge=1, description="Number of words added to a prompt.")
    iterations: int = Field(40, ge=1, description="Steps of the search, for each test prompt.")
    batch: int = Field(8, ge=1, description="Noised pictures in a step.")
    lr: float = Field(0.1, gt=0, description="Learning rate of AdamW on the words' vectors.")


class P4D(Attack[P4DConfig]):
    """min over words  E |f(z_t, t, [words; prompt]) - f_0(z_t, t, prompt)|^2,  each step at the nearest words."""

    access = "white box"
    Config = P4DConfig

    def control(self) -> Control:
        return Control("random", {"words": self.config.words})

    def passes(self, tests: int) -> int:
        return (BACKWARD_COST * self.config.iterations + 1) * self.config.batch * tests

    def run(self, arena: Arena) -> list[Round]:
        words = lexicon(arena.family, arena.concept.words, arena.guides.prompts)
        prompts = []
        for i, test in enumerate(arena.tests):
            chosen = _search(arena, words, self.config, i)
            prompts.append([words.prompt(words.text(chosen.tolist()), test)] * arena.images)
        return arena.draw_prompts(prompts)


def _search(arena: Arena, words: Lexicon, config: P4DConfig, number: int) -> Tensor:
    """Return the numbers (k,) of the words found for one test prompt."""
    first = next(iter(words.rows))
    generator = arena.generator("p4d", number)
    at, clean, noise, t = arena.noised(generator, config.batch)
    guides = [arena.guides.prompts[k] for k in at.tolist()]
    prompts = [words.with_placeholders(config.words, guide) for guide in guides]
    noised = arena.plan.add(clean, noise, t)
    with torch.no_grad(), arena.original() as untouched:
        target = untouched.predict(noised, t, untouched.condition(guides))
        arena.count_passes(len(noised))
    start = torch.randint(len(words.words), (config.words,), generator=generator)
    free = {name: rows[start].clone().requires_grad_() for name, rows in words.rows.items()}
    optimiser = torch.optim.AdamW(free.values(), lr=config.lr, weight_decay=0.1)
    best, chosen = float("inf"), start
    for step in range(config.iterations):
        nearest = torch.cdist(free[first].detach(), words.rows[first]).argmin(dim=-1)
        projected = mixed_embeddings(words, one_hot(words, nearest))
        vectors = {name: projected[name] + v - v.detach() for name, v in free.items()}  # straight through
        prediction = arena.predict(noised, t, condition_on(arena.family, words, prompts, vectors))
        loss = (prediction - target.to(prediction.device)).square().mean()
        if float(loss.detach()) < best:
            best, chosen = float(loss.detach()), nearest
        arena.descend(optimiser, loss)
        arena.say("searching words", number * config.iterations + step + 1, len(arena.tests) * config.iterations)
    return chosen
