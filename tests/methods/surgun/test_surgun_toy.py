"""The objective of SurgUn on a toy that can be seen through."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import nn

from excise.methods.trained.surgun.config import SurgUnConfig
from excise.methods.trained.surgun.objective import objective

CONCEPTS = 8  # clusters on a circle; 0 is the target, 1 its neighbour, 2 to 5 the distractors, 6 and 7 are far


CENTRES = torch.tensor([[4 * math.cos(a), 4 * math.sin(a)] for a in torch.linspace(0, 2 * math.pi, CONCEPTS + 1)[:-1]])


class Toy(nn.Module):
    """A conditional denoiser in the plane, epsilon prediction on a cosine schedule."""

    def __init__(self) -> None:
        super().__init__()
        self.names = nn.Embedding(CONCEPTS, 32)
        self.body = nn.Sequential(
            nn.Linear(2 + 2 + 32, 128), nn.SiLU(), nn.Linear(128, 128), nn.SiLU(), nn.Linear(128, 2)
        )

    def forward(self, z, t, concept):
        return self.body(torch.cat([z, torch.cos(t), torch.sin(t), self.names(concept)], dim=-1))

    def errors(self, x, concept, noise, t):
        z = torch.cos(t) * x + torch.sin(t) * noise
        return (self(z, t, concept) - noise).square().mean(dim=-1)

    @torch.no_grad()
    def sample(self, concept: int, count: int = 400, steps: int = 25):
        g = torch.Generator().manual_seed(1)
        z, c = torch.randn(count, 2, generator=g), torch.full((count,), concept)
        times = torch.linspace(math.pi / 2 - 0.02, 0.02, steps + 1)
        for now, then in itertools.pairwise(times):
            e = self(z, now.expand(count, 1), c)
            z = torch.cos(then) * (z - torch.sin(now) * e) / torch.cos(now) + torch.sin(then) * e
        return z


def draws(concept, g):
    return CENTRES[concept] + 0.2 * torch.randn(len(concept), 2, generator=g)


def times(n, g):
    return 0.02 + (math.pi / 2 - 0.04) * torch.rand(n, 1, generator=g)


@pytest.fixture(scope="module")
def base():
    torch.manual_seed(0)
    toy, g = Toy(), torch.Generator().manual_seed(0)
    optimiser = torch.optim.Adam(toy.parameters(), lr=2e-3)
    for _ in range(2500):
        c = torch.randint(CONCEPTS, (256,), generator=g)
        x = draws(c, g)
        loss = toy.errors(x, c, torch.randn(256, 2, generator=g), times(256, g)).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return toy.state_dict()


def unlearn(base, distractors, steps=600, **settings):
    """The toy after competition for concept 0; with L_T relative to the start."""
    toy, g = Toy(), torch.Generator().manual_seed(1)
    toy.load_state_dict(base)
    config = SurgUnConfig(**settings)
    optimiser = torch.optim.Adam(toy.parameters(), lr=3e-3)

    def errors(of, m=64):
        target, k = torch.zeros(m, dtype=torch.long), torch.tensor(distractors)[torch.arange(m) % len(distractors)]
        noise, t = torch.randn(m, 2, generator=g), times(m, g)
        return of.errors(draws(target, g), target, noise, t), of.errors(draws(k, g), target, noise, t)

    frozen = Toy()
    frozen.load_state_dict(base)
    with torch.no_grad():
        start = float(torch.cat([errors(frozen)[0] for _ in range(8)]).mean())
    for _ in range(steps):
        state = g.get_state()
        with torch.no_grad():
            reference = errors(frozen)
        g.set_state(state)  # the reference is of the same batch
        loss = objective(*errors(toy), config, start, reference)["loss"]
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(toy.parameters(), 1.0)
        optimiser.step()
    with torch.no_grad():
        end = float(torch.cat([errors(toy)[0] for _ in range(8)]).mean())
    return toy, end / start


def outcome(toy):
    """Target rate of the target's prompt, and the entropy over the distractors it yields."""
    distance = torch.cdist(toy.sample(0), CENTRES)
    nearest = distance.argmin(dim=1)
    near = distance.min(dim=1).values < 1.2
    rate = float(((nearest == 0) & near).float().mean())
    counts = torch.stack([((nearest == k) & near).float().sum() for k in range(2, 6)])
    p = counts[counts > 0] / counts.sum().clamp(min=1)
    return rate, float(-(p * p.log()).sum())


def test_the_untouched_toy_draws_its_concepts(base):
    toy = Toy()
    toy.load_state_dict(base)
    assert outcome(toy)[0] > 0.95


@pytest.mark.parametrize("contrast", ["ratio", "npo"])
def test_competition_spreads_the_target_over_several_distractors(base, contrast):
    toy, growth = unlearn(base, [2, 3, 4, 5], contrast=contrast, weight=0.1 if contrast == "ratio" else 0.5)
    rate, entropy = outcome(toy)
    assert rate < 0.1
    assert entropy > 1.0  # of at most log 4 = 1.386
    assert growth < 100  # 62 with ratio: the contrast rests beyond 50, descent does not; plain ascent passes 500


def test_a_single_distractor_is_a_single_proxy(base):
    toy, _ = unlearn(base, [3], contrast="ratio")
    rate, entropy = outcome(toy)
    assert rate < 0.1
    assert entropy < 0.1


def test_raw_ascent_diverges(base):
    _, growth = unlearn(base, [3], contrast="ga", cap=float("inf"), weight=1.0, descent=0.0)
    assert growth > 500


def test_the_contrast_rests_beyond_its_guard():
    config = SurgUnConfig(contrast="ratio")
    target, distractor = torch.tensor([60.0], requires_grad=True), torch.tensor([1.0], requires_grad=True)
    objective(target, distractor, config, start=1.0)["loss"].backward()
    assert target.grad is None or float(target.grad) == 0
    assert float(distractor.grad) == pytest.approx(1.0)
