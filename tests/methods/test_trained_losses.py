"""The loss of each trained method beside its formula, from predictions of the edited and of an untouched model."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from excise.concepts.concept import Concept
from excise.families import family_of
from excise.methods import METHODS, load_method, settings_of
from excise.methods.trained.material import drawn, source_of, weights_of
from excise.training.blocks import Batch
from excise.training.pictures import Sampling
from excise.training.problem import TrainingProblem

TEMPLATES = {"object": ["a photo of a {}", "{}"]}


@dataclass
class World:
    """A batch, the model in training, and an untouched copy of it."""

    batch: Batch
    now: Any
    frozen: Any

    def texts(self, rows: Any, of: list[str]) -> list[str]:
        return [of[i] for i in rows.rows.tolist()]

    def student(self, texts: list[str]) -> Tensor:
        read = self.now.live_condition if self.batch.weights.text_encoders else self.now.condition
        return self.now.predict(self.batch.x_t, self.batch.t, read(texts))

    def teacher(self, texts: list[str]) -> Tensor:
        with torch.no_grad():
            return self.frozen.predict(self.batch.x_t, self.batch.t, self.frozen.condition(texts))

    def empty(self, family: Any) -> Tensor:
        n = len(self.batch.x_t)
        return family.predict(self.batch.x_t, self.batch.t, family.unconditional()[[0] * n])

    @property
    def concept(self) -> list[str]:
        return self.texts(self.batch.concept, self.prompts("cat"))

    @property
    def anchor(self) -> list[str]:
        return self.texts(self.batch.concept, self.prompts("dog"))

    def prompts(self, name: str) -> list[str]:
        one = [t.format(name) for t in TEMPLATES["object"]]
        return one * 4


def square(a: Tensor, b: Tensor) -> Tensor:
    return ((a - b) ** 2).mean()


def concept_ablation(w: World, config: Any) -> Tensor:
    anchor = w.student(w.anchor)
    return square(w.student(w.concept), anchor.detach()) + config.prior_weight * square(anchor, w.batch.true)


def noise_ablation(w: World, config: Any) -> Tensor:
    return square(w.student(w.concept), w.batch.true)


def sculpting(w: World, config: Any) -> Tensor:
    own = w.student(w.anchor)
    return square(w.student(w.concept), own.detach()) + config.distil_weight * square(own, w.teacher(w.anchor))


def ace(w: World, config: Any) -> Tensor:
    empty, concept = w.empty(w.frozen), w.teacher(w.concept)
    kept = w.teacher(w.texts(w.batch.retain, ["a tree", ""]))
    unconditional = empty + config.eta * (concept - empty) - config.eta_prior * (kept - empty)
    conditional = empty - config.eta * (concept - empty)
    share = config.uncond_share
    return share * square(w.empty(w.now), unconditional) + (1 - share) * square(w.student(w.concept), conditional)


def ant(w: World, config: Any) -> Tensor:
    empty, concept = w.empty(w.frozen), w.teacher(w.concept)
    early = w.batch.progress < config.boundary
    goal = empty + (concept - empty) if early else empty - (concept - empty)
    weight = config.early_weight if early else 1.0
    return weight * square(w.student(w.concept), goal) + config.uncond_weight * square(w.empty(w.now), empty)


def rgd(w: World, config: Any) -> Tensor:
    errors = ((w.student(w.concept) - w.batch.true) ** 2).mean(dim=(1, 2, 3))
    return -torch.minimum(errors, torch.tensor(config.bound)).mean()


def salun(w: World, config: Any) -> Tensor:
    return square(w.student(w.concept), w.student(w.anchor).detach())


def amnesia(w: World, config: Any) -> Tensor:
    return square(w.student(w.concept), w.batch.true)


CASES: dict[str, tuple[str, dict[str, Any], Callable[[World, Any], Tensor]]] = {
    "ace": ("ace", {"sampler_steps": 3}, ace),
    "ant, late": ("ant", {"sampler_steps": 3, "boundary": 0.0}, ant),
    "ant, early": ("ant", {"sampler_steps": 3, "boundary": 1.0, "early_weight": 0.7}, ant),
    "concept ablation": ("concept-ablation", {"prior_weight": 0.6}, concept_ablation),
    "concept ablation, noise": ("concept-ablation", {"target": "noise"}, noise_ablation),
    "few-shot": ("few-shot", {"bound": 5.0}, rgd),
    "rgd": ("rgd", {"bound": 5.0}, rgd),
    "salun": ("salun", {}, salun),
    "sculpting memory": ("sculpting-memory", {"distil_weight": 0.3}, sculpting),
    "selective amnesia": ("selective-amnesia", {}, amnesia),
}


def problem_of(family: Any) -> TrainingProblem:
    return TrainingProblem(
        family,
        [Concept("cat", anchor="dog")],
        TEMPLATES,
        retain=["a tree"],
        sampling=Sampling(2, 2.0),
    )


@pytest.mark.parametrize("kind", ["sd", "sana"])
@pytest.mark.parametrize("case", CASES)
def test_the_loss_is_that_of_the_formula(make, case, kind):
    name, settings, formula = CASES[case]
    if not METHODS.record(name).needs <= family_of(make(kind)).provides:
        pytest.skip(f"{name} is not for {kind}")
    pipe = make(kind)
    frozen, family = family_of(copy.deepcopy(pipe)), family_of(pipe)
    method: Any = load_method(name)
    config: Any = settings_of(name)(batch=3, pictures=4, mask="none", **settings)
    problem = problem_of(family)
    material = drawn(problem, config)
    with weights_of(problem, config, method.targets(family, config)) as weights:
        generator = torch.Generator().manual_seed(3)
        with torch.no_grad():
            for p in weights.parameters.values():
                p.add_(0.1 * p.abs().mean() * torch.randn(p.shape, generator=generator))
        batch = source_of(problem, config, weights, material).batch(torch.Generator().manual_seed(0))
        loss = method.loss(batch, config)
        wanted = formula(World(batch, family, frozen), config)
        parameters = [*weights.parameters.values()]
        got, due = (torch.autograd.grad(v, parameters, allow_unused=True, retain_graph=True) for v in (loss, wanted))
        assert_close(loss, wanted, rtol=1e-4, atol=1e-6)
        assert any(g is not None and bool(g.any()) for g in got)
        for one, other in zip(got, due, strict=True):
            if other is not None:
                assert_close(one, other, rtol=1e-3, atol=1e-4 * float(other.abs().max()) + 1e-9)
