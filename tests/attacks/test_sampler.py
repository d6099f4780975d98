"""The sampler of attacks: deterministic, with noise, and inverted."""

from __future__ import annotations

import torch
from attack_runs import arena_of
from torch.testing import assert_close

from excise.attacks.sampler import AddedNoise, denoise, invert, times


def test_without_noise_the_sampler_is_the_models_own(any_pipe):
    """Same latents as a run of the scheduler that the model ships, without eta."""
    arena = arena_of(any_pipe)
    from excise.families.trajectories import plain_scheduler

    start = torch.randn(2, *arena.family.latent_shape, generator=arena.generator("start"))
    condition, none = arena.family.condition(["a cat"] * 2), arena.family.unconditional()[[0, 0]]
    scheduler = plain_scheduler(arena.family)
    scheduler.set_timesteps(4)
    x = start
    for t in scheduler.timesteps:
        at = t.expand(2)
        free, asked = arena.family.predict(x, at, none), arena.family.predict(x, at, condition)
        x = scheduler.step(free + arena.guidance * (asked - free), t, x).prev_sample
    found = denoise(arena, condition, start, times(arena, 4))
    last = 1e-3 * float(x.abs().max())
    if arena.plan.kind == "flow":
        assert_close(found, x, rtol=1e-3, atol=last)
    else:  # that scheduler ends at its first noise level, ours at none
        assert float((found - x).abs().mean()) < 0.05 * float(x.abs().mean())


def test_more_noise_gives_other_pictures_and_the_same_seed_the_same(any_pipe):
    arena = arena_of(any_pipe)
    start = torch.randn(2, *arena.family.latent_shape, generator=arena.generator("start"))
    condition, at = arena.family.condition(["a cat"] * 2), times(arena, 4)

    def drawn(eta):
        added = AddedNoise(eta, generator=torch.Generator().manual_seed(1))
        return denoise(arena, condition, start, at, added=added)

    assert torch.equal(drawn(1.0), drawn(1.0))
    assert not torch.equal(drawn(1.0), drawn(0.0))
    both = drawn(torch.tensor([0.0, 1.0]))
    assert torch.equal(both[0], drawn(0.0)[0])


def test_inverted_noise_leads_back(any_pipe, monkeypatch):
    """By a model that knows its data: latents from N(0, 0.5^2), for which the best prediction is known."""
    arena = arena_of(any_pipe)
    arena.guidance, variance = 1.0, 0.25
    plan = arena.plan

    def best(self, x, t, condition):
        a, s = plan.scales(t)
        total = a**2 * variance + s**2
        clean, noise = a * variance * x / total, s * x / total
        return {"epsilon": noise, "flow": noise - clean, "v_prediction": a * noise - s * clean}[plan.kind]

    monkeypatch.setattr(type(arena.family), "predict", best)
    condition, at = arena.family.condition(["a cat"] * 2), times(arena, 200)
    clean = 0.5 * torch.randn(2, *arena.family.latent_shape, generator=torch.Generator().manual_seed(0))
    noise = invert(arena, condition, clean, at)
    back = denoise(arena, condition, noise, at)
    assert float((back - clean).norm() / clean.norm()) < 0.05
    assert 0.8 < float(noise.std()) < 1.1
