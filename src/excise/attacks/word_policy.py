"""A policy over words that learns from the model's denoising error, and then samples prompts by the dozen.

Idea:       ReLAPSe: reinforcement learning with the denoising error as a reward that can be checked
Provenance: written from the idea. There the policy is a language model; here it is one distribution per word slot,
            small enough for a CPU. It needs no gradient of the model.
"""

from __future__ import annotations

import torch
from pydantic import Field

from excise.attacks.base import Arena, Attack, AttackSettings, Control, Round
from excise.attacks.tokens import lexicon


class PolicyConfig(AttackSettings):
    """Settings of the policy."""

    words: int = Field(3, ge=1, description="Number of words added to a prompt.")
    iterations: int = Field(40, ge=1, description="Learning steps, for all test prompts together.")
    prompts: int = Field(8, ge=2, description="Prompts tried in a step.")
    batch: int = Field(4, ge=1, description="Noised pictures that each of them is tried on.")
    lr: float = Field(0.5, gt=0, description="Learning rate of Adam on the logits.")


class WordPolicy(Attack[PolicyConfig]):
    """REINFORCE: words ~ softmax(logits), reward = how far the error lies below the mean of the step's prompts."""

    access = "white box"
    Config = PolicyConfig

    def control(self) -> Control:
        return Control("random", {"words": self.config.words})

    def passes(self, tests: int) -> int:
        return self.config.iterations * self.config.prompts * self.config.batch

    def run(self, arena: Arena) -> list[Round]:
        config, words = self.config, lexicon(arena.family, arena.concept.words)
        generator = arena.generator("policy")
        logits = torch.zeros(config.words, len(words.words), requires_grad=True)
        optimiser = torch.optim.Adam([logits], lr=config.lr)
        for step in range(config.iterations):
            chosen = torch.multinomial(logits.softmax(-1), config.prompts, replacement=True, generator=generator).T
            at, clean, noise, t = arena.noised(generator, config.batch)
            guides = [arena.guides.prompts[i] for i in at.tolist()]
            prompts = [words.prompt(words.text(row), guide) for row in chosen.tolist() for guide in guides]
            with torch.no_grad():
                condition = arena.family.condition(prompts)
                clean, noise, t = (x.repeat(config.prompts, *(1,) * (x.ndim - 1)) for x in (clean, noise, t))
                errors = arena.errors(clean, noise, t, condition).view(config.prompts, config.batch).mean(dim=1).cpu()
            reward = (errors.mean() - errors) / (errors.std() + 1e-8)
            log_probability = logits.log_softmax(-1)[torch.arange(config.words), chosen].sum(dim=1)
            loss = -(reward * log_probability).mean()
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            arena.say("learning prompts", step + 1, config.iterations)
        count = len(arena.tests) * arena.images
        sampled = torch.multinomial(logits.detach().softmax(-1), count, replacement=True, generator=generator).T
        rows = iter(sampled.tolist())
        return arena.draw_prompts(
            [[words.prompt(words.text(next(rows)), test) for _ in range(arena.images)] for test in arena.tests]
        )
