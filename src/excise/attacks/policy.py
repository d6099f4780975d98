"""A policy over words that learns from the model's denoising error, and then makes prompts by the dozen.

Idea:       ReLAPSe: reinforcement learning with the denoising error as a reward that can be checked
Provenance: written from the idea. There the policy is a language model; here it is one distribution a slot, small
            enough for a CPU. It needs no gradient of the model.
"""

from __future__ import annotations

import torch
from pydantic import Field

from excise.attacks.base import Access, Arena, Control, Round, Settings
from excise.attacks.tokens import lexicon


class PolicyConfig(Settings):
    """Settings of the policy."""

    words: int = Field(3, ge=1, description="Words put to a prompt.")
    iterations: int = Field(40, ge=1, description="Steps of learning, for all test prompts together.")
    prompts: int = Field(8, ge=2, description="Prompts tried in a step.")
    batch: int = Field(4, ge=1, description="Noised pictures that each of them is tried on.")
    lr: float = Field(0.5, gt=0, description="Learning rate of Adam on the logits.")


class Policy:
    """The attack as the registry knows it."""

    access: Access = "white box"
    teaches = False
    Config = PolicyConfig

    @staticmethod
    def control(config: PolicyConfig) -> Control:
        """What does the same without it."""
        return "random", {"words": config.words}

    @staticmethod
    def passes(config: PolicyConfig, tests: int) -> int:
        """Denoiser passes beside those of drawing."""
        return config.iterations * config.prompts * config.batch

    @staticmethod
    def attack(arena: Arena, config: PolicyConfig) -> list[Round]:
        """REINFORCE: words ~ softmax(logits), reward = how much lower the error is than that of the step's others."""
        known = lexicon(arena.family, arena.concept.words)
        generator = arena.generator("policy")
        logits = torch.zeros(config.words, len(known.words), requires_grad=True)
        optimiser = torch.optim.Adam([logits], lr=config.lr)
        for step in range(config.iterations):
            chosen = torch.multinomial(logits.softmax(-1), config.prompts, replacement=True, generator=generator).T
            at, clean, noise, t = arena.noised(generator, config.batch)
            asked = [arena.guides.prompts[i] for i in at.tolist()]
            texts = [known.prompt(known.text(row), p) for row in chosen.tolist() for p in asked]
            with torch.no_grad():
                condition = arena.family.condition(texts)
                clean, noise, t = (x.repeat(config.prompts, *(1,) * (x.ndim - 1)) for x in (clean, noise, t))
                errors = arena.errors(clean, noise, t, condition).view(config.prompts, config.batch).mean(dim=1).cpu()
            reward = (errors.mean() - errors) / (errors.std() + 1e-8)
            chance = logits.log_softmax(-1)[torch.arange(config.words), chosen].sum(dim=1)
            loss = -(reward * chance).mean()
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            arena.say("learning prompts", step + 1, config.iterations)
        shape = len(arena.tests) * arena.images
        drawn = torch.multinomial(logits.detach().softmax(-1), shape, replacement=True, generator=generator).T.tolist()
        rows = iter(drawn)
        return arena.words(
            [[known.prompt(known.text(next(rows)), test) for _ in range(arena.images)] for test in arena.tests]
        )
