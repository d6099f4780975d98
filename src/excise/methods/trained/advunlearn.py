"""AdvUnlearn: the text encoder erases a concept while words in front of its prompts are learnt to regain it.

Paper:      Zhang et al., "Defensive Unlearning with Adversarial Training for Robust Concept Erasure in Diffusion
            Models",
            NeurIPS 2024, arXiv 2405.15234, eq. 4 to 7
Provenance: written from the paper and from the published behaviour of the program (MIT), whose attack never clears its
            gradients, so that its steps follow their running sum

With the denoiser f, the frozen text encoder T*, the one in training T, latents x_t that are being denoised under the
concept c, d words given as vectors in front of a prompt, and a prompt r to retain,

    min_T  |f(x_t, T(d c)) - (f(T*(0)) - eta (f(T*(c)) - f(T*(0))))|^2 + gamma |f(x_t, T(r)) - f(x_t, T*(r))|^2
    d = argmin |f(x_t, T(d c)) - f(x_t, T*(c))|^2        from words drawn at random, anew in each step

The attack takes several steps of Adam, or one along the sign of the gradient ("fast"). It is left out at first.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from excise.attacks.tokens import Lexicon, condition_on, lexicon
from excise.families.base import Family
from excise.families.conditions import Condition
from excise.methods.trained.advunlearn_config import AdvUnlearnConfig
from excise.methods.trained.base import Stepped, with_retention
from excise.training.adapters import Weights
from excise.training.blocks import Batch
from excise.training.loop import Losses, Step
from excise.training.losses import mse, push_away
from excise.training.problem import TrainingProblem
from excise.training.sources import Source

Vectors = dict[str, Tensor]  # by text encoder (k, e)


class AdvUnlearn(Stepped[AdvUnlearnConfig]):
    """The method as the registry knows it."""

    Config = AdvUnlearnConfig

    def targets(self, family: Family, config: AdvUnlearnConfig) -> list[str]:
        return [m.path for m in family.maps(f"text_{config.encoder_maps}")]

    def step(self, problem: TrainingProblem, config: AdvUnlearnConfig, weights: Weights, source: Source) -> Step:
        """One pass of training; the attack begins behind the warm-up.

        Raises:
            AttackError: the vocabulary has too few words to begin at.
        """
        words = lexicon(problem.family, (), [w for c in problem.concepts for w in c.words])
        return Rounds(source, words, config)


class Rounds:
    """One pass of training: the attack, and the loss against it."""

    def __init__(self, source: Source, words: Lexicon, config: AdvUnlearnConfig) -> None:
        self._source, self._words, self._config, self._done = source, words, config, 0

    def __call__(self, generator: torch.Generator) -> Losses:
        batch, config = self._source.batch(generator), self._config
        family = batch.weights.family
        empty, concept = batch.teachers(batch.empty, batch.concept)
        condition = batch.concept.student
        if self._done >= config.warmup_steps:
            vectors = attack(batch, concept, self._words, config, generator)
            condition = led_by(batch, self._words, vectors)
        self._done += 1
        erase = mse(family.predict(batch.x_t, batch.t, condition), push_away(empty, concept, empty, config.eta))
        return with_retention(batch, erase, config)

    def state_dict(self) -> dict[str, Any]:
        """The passes that are done."""
        return {"done": self._done}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on behind as many passes."""
        self._done = int(state["done"])


def led_by(batch: Batch, words: Lexicon, vectors: Vectors) -> Condition:
    """(B) the concept's prompts with vectors as words in front (or behind), by the text encoders as they are now."""
    count = next(iter(vectors.values())).shape[0]
    prompts = [words.with_placeholders(count, text) for text in batch.concept.texts]
    return condition_on(batch.weights.family, words, prompts, vectors)


def attack(batch: Batch, goal: Tensor, words: Lexicon, config: AdvUnlearnConfig, generator: torch.Generator) -> Vectors:
    """Vectors (k, e) by text encoder under which the model in training predicts what the untouched one does."""
    first = torch.randint(len(words.words), (config.words,), generator=generator)
    vectors = {name: rows[first].clone().requires_grad_(True) for name, rows in words.rows.items()}
    every = [*vectors.values()]
    optimiser = torch.optim.Adam(every, lr=config.attack_lr)
    for _ in range(1 if config.attack == "fast" else config.attack_steps):
        loss = mse(batch.weights.family.predict(batch.x_t, batch.t, led_by(batch, words, vectors)), goal)
        gradients = torch.autograd.grad(loss, every)
        for v, gradient in zip(every, gradients, strict=True):
            v.grad = gradient
        if config.attack == "fast":
            with torch.no_grad():
                for v, gradient in zip(every, gradients, strict=True):
                    v.sub_(config.fast_step * v.norm(dim=-1, keepdim=True) * gradient.sign() / v.shape[-1] ** 0.5)
        else:
            optimiser.step()
    return {name: v.detach() for name, v in vectors.items()}
