"""The contract of an attack: what it receives, what it may spend, what it returns, and its base class."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, Literal, NamedTuple, TypeVar

import torch
from PIL import Image
from torch import Tensor

from excise.concepts.concept import Concept
from excise.errors import ExciseError
from excise.families.base import Family, split
from excise.families.conditions import Condition, join
from excise.families.noising import Noising
from excise.support.counts import counted
from excise.support.digests import seed_of
from excise.support.display import Card, Showing, described
from excise.support.progress import Report, silent
from excise.support.strict import Strict
from excise.training import losses

BACKWARD_COST = 3  # forward passes that one with gradients counts as, because it takes about as long
HALF_PRECISION_SCALE = 2.0**12  # of losses in fp16, whose gradients would underflow
GUIDES = 20  # pictures of the target that guide attacks, and as many of other things
Access = Literal["black box", "text encoder", "white box", "latents", "weights"]
Search = Callable[[], list[str]]


class AttackError(ExciseError):
    """An attack that cannot be made on this model or concept; the message says why."""


class AttackSettings(Strict):
    """Base class of an attack's settings; an attack without settings uses it as it is."""


class Control(NamedTuple):
    """The attack that an attack is compared with: as many pictures, without the search."""

    attack: str
    settings: dict[str, Any]


SEEDS = Control("seeds", {})


@dataclass(frozen=True)
class Guides:
    """The data that guides attacks: what the untouched model draws of the target, and of other things.

    Attributes:
        prompts: n prompts that ask for the target.
        latents: (n, c, h, w) latents of the pictures that the untouched model draws of them.
        others: prompts that ask for other things of the target's level; empty where no names are known.
        other_latents: latents of the pictures of those.
    """

    prompts: list[str]
    latents: Tensor
    others: list[str]
    other_latents: Tensor


@dataclass(frozen=True)
class Shot:
    """One picture that the attacked model drew, and its prompt in words."""

    image: Image.Image
    prompt: str


@dataclass(frozen=True)
class Round:
    """All pictures for one test prompt; the attack succeeds on it if any of them shows the target."""

    test: str
    shots: list[Shot]


@dataclass(repr=False)
class Arena(Showing):
    """One model under attack for one concept, with its edits and hooks in force, and the budget of the attack.

    Attributes:
        family: the model under attack.
        original: opens a context that yields the untouched model.
        concept: the target.
        tests: prompts that ask for the target and are judged; no attack is guided by them.
        guides: prompts and pictures that may guide an attack.
        others: names of the target's level.
        banned: synonyms that a search for hidden words may not use.
        swaps: by changed part of the model, opens a context in which that part is the untouched model's.
        ways: other prompts that ask for the target, by kind ("synonyms", "paraphrases", ...).
        images: pictures that each test prompt may have.
        steps, guidance, batch: settings of the sampler.
        seed: of every search and picture.
        say: receives progress.
        shows_target: returns whether pictures show the target, by any of the judges; for what an attack learns from.
        search_once: returns the result of a search that looks at the untouched model alone, by a name that stands for
            the search and its settings; it runs the search unless the result is known.
        drawn: pictures drawn so far.
        passes: latents that a search has put through a denoiser; one with gradients counts `BACKWARD_COST` times.
        notes: further results, as JSON can hold them.
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
    say: Report = silent
    shows_target: Callable[[Sequence[Image.Image]], list[bool]] = lambda images: [False] * len(images)
    search_once: Callable[[str, Search], list[str]] = lambda name, search: search()
    drawn: int = field(default=0, init=False)
    passes: int = field(default=0, init=False)
    notes: dict[str, Any] = field(default_factory=dict, init=False)

    def card(self) -> Card:
        """What the arena shows of itself."""
        return described(f"Arena: bring back {self.concept.name}", self)

    # randomness

    def generator(self, *parts: object) -> torch.Generator:
        """Return a generator for the search that `parts` name, the same on every model with the same seed."""
        return torch.Generator().manual_seed(self._seed(*parts))

    def seeds(self, test: str, count: int) -> list[int]:
        """Return the seeds of a test prompt's pictures, which no protocol and no training uses."""
        return [self._seed("picture", test, i) for i in range(count)]

    def _seed(self, *parts: object) -> int:
        return seed_of("attack", self.seed, *parts)

    # drawing within the budget

    def draw_tests(self) -> list[Round]:
        """Draw every test prompt as it is, with as many seeds as the budget has pictures."""
        return self.draw_prompts([[test] * self.images for test in self.tests])

    def draw_prompts(self, prompts: Sequence[Sequence[str]]) -> list[Round]:
        """Draw, for each test prompt, one picture per prompt of its row.

        Raises:
            AttackError: a prompt is longer than the model reads, or a row is longer than the budget.
        """
        flat = [p for row in prompts for p in row]
        self._check_length(flat)
        return self.draw_conditions([self.family.condition(row) for row in prompts], flat)

    def draw_conditions(self, conditions: Sequence[Condition], prompts: Sequence[str] | None = None) -> list[Round]:
        """Draw, for each test prompt, one picture per row of its condition.

        Args:
            conditions: one per test prompt.
            prompts: the prompt of every row, in order; None stands for the test prompts themselves.

        Raises:
            AttackError: a condition has more rows than the budget has pictures.
        """
        counts = [len(condition) for condition in conditions]
        self._spend(counts)
        rows = join(list(conditions))
        seeds = [s for test, n in zip(self.tests, counts, strict=True) for s in self.seeds(test, n)]
        unconditional = self.family.unconditional()
        images: list[Image.Image] = []
        for part in split(range(len(seeds)), self.batch):
            at = list(part)
            images += self.family.render(
                rows[at], unconditional, [seeds[i] for i in at], steps=self.steps, guidance=self.guidance
            )
            self.say("drawing", len(images), len(seeds))
        if prompts is None:
            prompts = [test for test, n in zip(self.tests, counts, strict=True) for _ in range(n)]
        return self._rounds(images, prompts, counts)

    def draw_each_test(self, draw: Callable[[int, str], tuple[Sequence[Image.Image], Sequence[str]]]) -> list[Round]:
        """Spend the whole budget of every test prompt on the pictures that a function draws for it.

        Args:
            draw: receives the number and the text of a test prompt; returns `images` pictures and their prompts.
        """
        counts = [self.images] * len(self.tests)
        self._spend(counts)
        images: list[Image.Image] = []
        prompts: list[str] = []
        for i, test in enumerate(self.tests):
            new_images, new_prompts = draw(i, test)
            images += new_images
            prompts += new_prompts
            self.say("drawing", i + 1, len(self.tests))
        return self._rounds(images, prompts, counts)

    def _rounds(self, images: Sequence[Image.Image], prompts: Sequence[str], counts: Sequence[int]) -> list[Round]:
        shots = iter([Shot(image, prompt) for image, prompt in zip(images, prompts, strict=True)])
        return [Round(test, [next(shots) for _ in range(n)]) for test, n in zip(self.tests, counts, strict=True)]

    def _spend(self, counts: Sequence[int]) -> None:
        """Take pictures from the budget of each test prompt, before they are drawn."""
        if max(counts) > self.images:
            raise AttackError(
                f"an attack asked for {counted(max(counts), 'picture')} of one prompt; its budget is {self.images}."
            )
        self.drawn += sum(counts)

    def _check_length(self, prompts: Sequence[str]) -> None:
        """Refuse prompts whose end would not be read."""
        for tokenizer in self.family.tokenizers.values():
            for prompt, ids in zip(prompts, tokenizer(list(prompts)).input_ids, strict=True):
                if len(ids) > self.family.max_tokens:
                    raise AttackError(
                        f"'{prompt[:60]}' has {len(ids)} tokens, but the model reads {self.family.max_tokens}: the "
                        "end, which may ask for the target, would be lost. Use shorter prompts, or lower the setting "
                        "`words` if the attack searches for words."
                    )

    # searching: predictions, errors and gradients

    @property
    def plan(self) -> Noising:
        """How the model's latents are noised."""
        return self.family.noising

    def predict(self, latents: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Return the denoiser's prediction for (B, c, h, w) latents, and add it to the cost of the attack."""
        self.count_passes(len(latents))
        return self.family.predict(latents, t, condition)

    def count_passes(self, latents: int) -> None:
        """Add denoiser passes over that many latents to the cost of the attack."""
        self.passes += latents * (BACKWARD_COST if torch.is_grad_enabled() else 1)

    def errors(self, clean: Tensor, noise: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Return (B,) denoising errors |f(z_t, t, c) - y|^2: how little the model expects these latents."""
        self.count_passes(len(clean))
        return losses.errors(self.family, self.plan, clean, noise, t, condition)

    def noised(self, generator: torch.Generator, count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Draw a batch of the guides: their numbers, latents, noise, and times over all noise levels, `count` of each.

        The guides come in turn, from a random one on.
        """
        many = len(self.guides.latents)
        at = (torch.arange(count) + int(torch.randint(many, (1,), generator=generator))) % many
        clean = self.guides.latents[at]
        noise = torch.randn(clean.shape, generator=generator)
        t = self.plan.times(count, generator=generator)
        return at, clean, noise, t[torch.randperm(count, generator=generator)]

    def gradients(self, loss: Tensor, of: Sequence[Tensor], some_idle: bool = False) -> tuple[Tensor, ...]:
        """Return the gradients of a loss with respect to some tensors; no other tensor receives one.

        Args:
            some_idle: whether the loss may not depend on all of them; their gradients are zero then.

        Raises:
            AttackError: the loss is not finite.
        """
        if not bool(torch.isfinite(loss)):
            raise AttackError(
                "the model's error on a picture of the target is not finite; load it in single precision."
            )
        half = next(self.family.denoiser.parameters()).dtype == torch.float16
        scale = HALF_PRECISION_SCALE if half else 1.0
        return tuple(g / scale for g in torch.autograd.grad(loss * scale, list(of), materialize_grads=some_idle))

    def descend(self, optimiser: torch.optim.Optimizer, loss: Tensor, some_idle: bool = False) -> None:
        """Make one step of an optimiser; only its own parameters receive gradients.

        Args:
            some_idle: as of `gradients`.

        Raises:
            AttackError: the loss is not finite.
        """
        parameters = [p for group in optimiser.param_groups for p in group["params"]]
        for parameter, gradient in zip(parameters, self.gradients(loss, parameters, some_idle), strict=True):
            parameter.grad = gradient
        optimiser.step()


ConfigT = TypeVar("ConfigT", bound=AttackSettings, covariant=True)


class Attack(ABC, Generic[ConfigT]):
    """One way to bring a concept back, with its settings.

    A subclass sets `access`, names its settings class in `Config`, and defines `run`. It overrides `teaches`, `control`
    and `passes` where their defaults do not hold.
    """

    access: ClassVar[Access]
    """The most that the attack sees of the model, or changes in it."""

    teaches: ClassVar[bool] = False
    """Whether the attack shows the model the target. Then only a comparison with a model that never knew the target
    tells what was brought back from what was taught."""

    Config: ClassVar[type[AttackSettings]] = AttackSettings
    """The class of its settings; every field has a description."""

    def __init__(self, config: ConfigT) -> None:
        self.config = config

    def control(self) -> Control:
        """Return the attack to compare with; by default the test prompts with other seeds."""
        return SEEDS

    def passes(self, tests: int) -> int:
        """Return how many denoiser passes the search needs for that many test prompts, those of drawing not counted.

        An attack that needs none, the default, computes no gradients through the denoiser.
        """
        return 0

    @abstractmethod
    def run(self, arena: Arena) -> list[Round]:
        """Attack the model, and return the pictures of each test prompt in the order of `arena.tests`.

        Raises:
            AttackError: the attack cannot be made on this model or concept.
        """
