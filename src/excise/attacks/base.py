"""What an attack is given, what it may spend, and what it gives back."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
from PIL import Image
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from excise.concepts.concept import Concept
from excise.errors import ExciseError
from excise.families.base import Condition, Family, join, split
from excise.families.noising import Noising

BACK = 3  # passes that one with gradients counts as, for it takes the time of so many
SCALE = 2.0**12  # of losses in fp16, whose gradients would vanish
GUIDES = 20  # pictures of the target that guide attacks, and of other things
Access = Literal["black box", "text encoder", "white box", "latents", "weights"]
Control = tuple[str, dict[str, Any]]
"""An attack's name and settings: what does the same with as many pictures, less the search."""
SEEDS: Control = ("seeds", {})


class AttackError(ExciseError):
    """An attack that cannot be made on this model, or on this concept; the message says why."""


class Settings(BaseModel):
    """Settings of an attack; each has its own."""

    model_config = ConfigDict(extra="forbid", frozen=True)


@dataclass(frozen=True)
class Guides:
    """What guides an attack: pictures that the untouched model draws of the target, and of other things.

    Attributes:
        prompts: (n) ask for the target. latents: (n, c, h, w) of what the untouched model draws of them.
        others, other_latents: the same of other things of its level; none where no names of such are known.
    """

    prompts: list[str]
    latents: Tensor
    others: list[str]
    other_latents: Tensor


@dataclass(frozen=True)
class Shot:
    """One picture that an attack made the model draw, and the words of its prompt."""

    image: Image.Image
    words: str


@dataclass(frozen=True)
class Round:
    """All pictures for one test prompt; the attack succeeds here if any of them shows the target."""

    test: str
    shots: list[Shot]


@dataclass
class Arena:
    """One model under attack for one concept, with everything it ships in force.

    Attributes:
        family: the model, its edits and hooks in force.
        original: a context in which the untouched model stands, as a family.
        tests: prompts that ask for the target; no attack is guided by them.
        guides: what guides an attack. others: names of the target's level. banned: synonyms that a search for hidden
            words may not use. ways: other prompts that ask for the target, by kind.
        swaps: contexts in which a part of the model is the untouched one's, by the part that was changed.
        images: pictures a test prompt may have. steps, guidance, batch: of the sampler.
        seed: of every search and picture.
        drawn, passes: what has been spent so far: pictures, and latents that a search put through a denoiser (three for
            one with gradients).
        notes: what an attack found beside pictures.
        recall: gives what a search of the untouched model alone found before, by a name and what would search.
    """

    family: Family
    original: Callable[[], AbstractContextManager[Family]]
    concept: Concept
    tests: Sequence[str]
    guides: Guides
    others: Sequence[str] = ()
    banned: Sequence[str] = ()
    swaps: Mapping[str, Callable[[], AbstractContextManager[None]]] = field(default_factory=dict)
    ways: Mapping[str, Sequence[str]] = field(default_factory=dict)
    images: int = 8
    steps: int = 20
    guidance: float = 4.0
    batch: int = 32
    seed: int = 0
    say: Callable[[str, int, int], None] = lambda what, done, total: None
    drawn: int = 0
    passes: int = 0
    notes: dict[str, Any] = field(default_factory=dict)
    recall: Callable[[str, Callable[[], list[str]]], list[str]] = lambda name, search: search()

    @property
    def plan(self) -> Noising:
        """How the model's latents are noised."""
        return self.family.noising

    def generator(self, *parts: object) -> torch.Generator:
        """Of a search, the same on every model that is attacked so."""
        return torch.Generator().manual_seed(_mixed(self.seed, *parts))

    def seeds(self, test: str, count: int) -> list[int]:
        """Seeds of a test prompt's pictures; no protocol's and no training's."""
        return [_mixed(self.seed, "picture", test, i) for i in range(count)]

    def words(self, prompts: Sequence[Sequence[str]]) -> list[Round]:
        """Draw for each test prompt some prompts in words.

        Raises:
            AttackError: one is longer than the model reads.
        """
        flat = [p for row in prompts for p in row]
        self.fits(flat)
        return self.conditions([self.family.condition(row) for row in prompts], iter(flat))

    def fits(self, prompts: Sequence[str]) -> None:
        """Refuse prompts whose end would not be read.

        Raises:
            AttackError: one is too long.
        """
        for tokenizer in self.family.tokenizers.values():
            for prompt, ids in zip(prompts, tokenizer(list(prompts)).input_ids, strict=True):
                if len(ids) > self.family.max_tokens:
                    raise AttackError(
                        f"'{prompt[:60]}' has {len(ids)} tokens, {self.family.max_tokens} are read: the end, which may "
                        "ask for the target, would be lost. Take shorter prompts, or fewer words if it looks for words."
                    )

    def conditions(self, rows: Sequence[Condition], words: Any = None) -> list[Round]:
        """Draw for each test prompt one picture a row of its condition.

        Args:
            words: of every row, in order; the test prompts themselves where none are given.
        """
        counts = [len(row) for row in rows]
        self.spend(counts)
        all_rows = join(list(rows))
        seeds = [s for test, n in zip(self.tests, counts, strict=True) for s in self.seeds(test, n)]
        none = self.family.unconditional()
        images: list[Image.Image] = []
        for part in split(range(len(seeds)), self.batch):
            at = list(part)
            images += self.family.render(
                all_rows[at], none, [seeds[i] for i in at], steps=self.steps, guidance=self.guidance
            )
            self.say("drawing", len(images), len(seeds))
        texts = (
            list(words) if words is not None else [t for t, n in zip(self.tests, counts, strict=True) for _ in range(n)]
        )
        return self.rounds(images, texts, counts)

    def by_test(self, draw: Callable[[int, str], tuple[Sequence[Image.Image], Sequence[str]]]) -> list[Round]:
        """The whole budget of every test prompt, by a function of its number and itself to pictures and their words."""
        counts = [self.images] * len(self.tests)
        self.spend(counts)
        images: list[Image.Image] = []
        words: list[str] = []
        for i, test in enumerate(self.tests):
            drawn, asked = draw(i, test)
            images += drawn
            words += asked
            self.say("drawing", i + 1, len(self.tests))
        return self.rounds(images, words, counts)

    def rounds(self, images: Sequence[Image.Image], words: Sequence[str], counts: Sequence[int]) -> list[Round]:
        """Pictures in the order of the test prompts as rounds."""
        shots = iter([Shot(i, w) for i, w in zip(images, words, strict=True)])
        return [Round(test, [next(shots) for _ in range(n)]) for test, n in zip(self.tests, counts, strict=True)]

    def spend(self, counts: Sequence[int]) -> None:
        """Take pictures from the budget, before they are drawn.

        Raises:
            AttackError: a test prompt would have more than it may.
        """
        if max(counts) > self.images:
            raise AttackError(f"an attack asked for {max(counts)} pictures of one prompt; its budget is {self.images}.")
        self.drawn += sum(counts)

    def predict(self, latents: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """The denoiser's word on latents, counted."""
        self.count(len(latents))
        return self.family.predict(latents, t, condition)

    def count(self, latents: int) -> None:
        """Put latents on the bill of the search."""
        self.passes += latents * (BACK if torch.is_grad_enabled() else 1)

    def gradients(self, loss: Tensor, of: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Gradients of a loss with respect to what is searched, and to nothing else.

        Raises:
            AttackError: the loss is not finite.
        """
        if not bool(torch.isfinite(loss)):
            raise AttackError(
                "the model's error on a picture of the target is not finite; load it in single precision."
            )
        half = next(self.family.denoiser.parameters()).dtype == torch.float16
        scale = SCALE if half else 1.0
        return tuple(g / scale for g in torch.autograd.grad(loss * scale, list(of)))

    def descend(self, optimiser: torch.optim.Optimizer, loss: Tensor) -> None:
        """One step of an optimiser; what it holds gets gradients, and nothing else.

        Raises:
            AttackError: the loss is not finite.
        """
        searched = [p for group in optimiser.param_groups for p in group["params"]]
        for one, gradient in zip(searched, self.gradients(loss, searched), strict=True):
            one.grad = gradient
        optimiser.step()

    def errors(self, clean: Tensor, noise: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """(B,) the model's own denoising errors: how little it expects these pictures under these prompts."""
        noised = self.plan.add(clean, noise, t)
        wanted = self.plan.target(clean, noise, t)
        found = self.predict(noised, t, condition)
        return (found - wanted.to(found.device)).square().mean(dim=(1, 2, 3))

    def noised(self, generator: torch.Generator, count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(count,) which guides, in turn from a random one on, their latents, noise, and times of all levels."""
        many = len(self.guides.latents)
        at = (torch.arange(count) + int(torch.randint(many, (1,), generator=generator))) % many
        clean = self.guides.latents[at]
        noise = torch.randn(clean.shape, generator=generator)
        t = self.plan.times(count, generator=generator)
        return at, clean, noise, t[torch.randperm(count, generator=generator)]


class Attack(Protocol):
    """One way to bring a concept back.

    Attributes:
        access: what it may see. teaches: it shows the model the target, so that only a model that never knew it can
            tell what was brought back from what was taught.
    """

    access: Access
    teaches: bool
    Config: type[Settings]

    @staticmethod
    def control(config: Any) -> Control: ...

    @staticmethod
    def passes(config: Any, tests: int) -> int: ...

    @staticmethod
    def attack(arena: Arena, config: Any) -> list[Round]: ...


def _mixed(*parts: object) -> int:
    digest = hashlib.sha256("\x00".join(map(str, ("attack", *parts))).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
