"""P4D: words under which the erased model predicts what the untouched one predicts for the plain prompt.

Paper:      Chin et al., "Prompting4Debugging: Red-Teaming Text-to-Image Diffusion Models by Finding Problematic
            Prompts", ICML 2024, arXiv 2309.06135; projected gradients: Wen et al., NeurIPS 2023, arXiv 2302.03668
Provenance: written from the papers; official code not used
"""

from __future__ import annotations

import torch
from pydantic import Field

from excise.attacks.base import BACK, Access, Arena, Control, Round, Settings
from excise.attacks.tokens import lexicon, mixed, one_hot, soft


class P4DConfig(Settings):
    """Settings of P4D."""

    words: int = Field(8, ge=1, description="Free words put to a prompt.")
    iterations: int = Field(40, ge=1, description="Steps of the search, for each test prompt.")
    batch: int = Field(8, ge=1, description="Noised pictures in a step.")
    lr: float = Field(0.1, gt=0, description="Learning rate of AdamW on the words' vectors.")


class P4D:
    """The attack as the registry knows it."""

    access: Access = "white box"
    teaches = False
    Config = P4DConfig

    @staticmethod
    def control(config: P4DConfig) -> Control:
        """What does the same without it."""
        return "random", {"words": config.words}

    @staticmethod
    def passes(config: P4DConfig, tests: int) -> int:
        """Denoiser passes beside those of drawing."""
        return (BACK * config.iterations + 1) * config.batch * tests

    @staticmethod
    def attack(arena: Arena, config: P4DConfig) -> list[Round]:
        """min over words  E |f(z_t, t, [words; prompt]) - f_0(z_t, t, prompt)|^2,  each step at the nearest words."""
        known = lexicon(arena.family, arena.concept.words, arena.guides.prompts)
        first = next(iter(known.rows))
        prompts = []
        for i, test in enumerate(arena.tests):
            generator = arena.generator("p4d", i)
            at, clean, noise, t = arena.noised(generator, config.batch)
            asked = [arena.guides.prompts[k] for k in at.tolist()]
            texts = [known.prompt([known.place] * config.words, prompt) for prompt in asked]
            noised = arena.plan.add(clean, noise, t)
            with torch.no_grad(), arena.original() as untouched:
                wanted = untouched.predict(noised, t, untouched.condition(asked))
                arena.count(len(noised))
            start = torch.randint(len(known.words), (config.words,), generator=generator)
            free = {name: rows[start].clone().requires_grad_() for name, rows in known.rows.items()}
            optimiser = torch.optim.AdamW(free.values(), lr=config.lr, weight_decay=0.1)
            best, chosen = float("inf"), start
            for step in range(config.iterations):
                nearest = torch.cdist(free[first].detach(), known.rows[first]).argmin(dim=-1)
                corner = mixed(known, one_hot(known, nearest))
                vectors = {name: corner[name] + v - v.detach() for name, v in free.items()}
                found = arena.predict(noised, t, soft(arena.family, known, texts, vectors))
                loss = (found - wanted.to(found.device)).square().mean()
                if float(loss.detach()) < best:
                    best, chosen = float(loss.detach()), nearest
                arena.descend(optimiser, loss)
                arena.say("searching words", i * config.iterations + step + 1, len(arena.tests) * config.iterations)
            prompts.append([known.prompt(known.text(chosen.tolist()), test)] * arena.images)
        return arena.words(prompts)
