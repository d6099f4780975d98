"""The controls: nothing is exactly nothing, everything destroyed is seen as such; and the distance to an oracle."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import tiny_pipe

from excise.evaluation import controls
from excise.evaluation.fade import TIMES, distance, fade
from excise.families import family_of

PROMPTS = ["a cat", "a dog", "a car"]


@pytest.fixture
def family(pipe):
    return family_of(pipe)


@pytest.fixture
def oracle(tokenizer):
    return family_of(tiny_pipe(tokenizer, seed=1))


def draw(family):
    return family.sample(PROMPTS, [0, 1, 2], steps=2, guidance=2.0, batch=3)


def test_fade_is_zero_between_a_model_and_itself_and_grows_with_the_edit(family):
    images = (draw(family), draw(family))
    same = fade(family, [controls.identity(family, "tiny")], family, PROMPTS, images)
    assert (same.value, same.low, same.high) == (0.0, 0.0, 0.0)


def test_fade_grows_with_what_was_done_and_leaves_the_model_alone(family, tokenizer):
    twin = family_of(tiny_pipe(tokenizer))  # the same weights in another object
    images = (draw(family), draw(twin))
    noise = controls.noise(family, "tiny")
    before = family.projections()[0].module.weight
    gentle, harsh = (fade(family, [noise.scaled(s)], twin, PROMPTS, images).value for s in (0.01, 1.0))
    assert 0 < gentle < harsh
    assert family.projections()[0].module.weight is before


def test_distance_is_that_of_the_formula(family, oracle):
    """Against the definition, image by image and level by level."""
    images, seed = draw(family), 3
    found = distance(family, oracle, PROMPTS, images, seed)
    assert np.array_equal(found, distance(family, oracle, PROMPTS, images, seed))
    pixels = torch.stack([torch.from_numpy(np.array(i)).permute(2, 0, 1).float() / 127.5 - 1 for i in images])
    with torch.no_grad():
        clean = family.pipe.vae.encode(pixels).latent_dist.mean * family.pipe.vae.config.scaling_factor
    generator = torch.Generator().manual_seed(seed)
    within = torch.rand(3, TIMES, generator=generator)
    noise = torch.randn(3, TIMES, *clean.shape[1:], generator=generator)
    for i, prompt in enumerate(PROMPTS):
        total = 0.0
        for j in range(TIMES):
            t = torch.tensor([int((j + within[i, j]) * 1000 / TIMES)])
            noised = family.pipe.scheduler.add_noise(clean[i : i + 1], noise[i, j][None], t)
            text = family.encode([prompt]).states
            with torch.no_grad():
                e = [f.denoiser(noised, t, encoder_hidden_states=text).sample for f in (family, oracle)]
            total += float((e[0] - e[1]).square().mean())
        assert found[i] == pytest.approx(total / TIMES, rel=1e-4)


def test_noise_is_loud_seeded_and_can_be_taken_off(family):
    one, two = controls.noise(family, "tiny"), controls.noise(family, "tiny")
    path = one.paths[0]
    weight = family.projections()[0].module.weight.detach()
    assert one.paths == sorted(p.path for p in family.projections())
    assert (one.modules[path].dw == two.modules[path].dw).all()
    assert one.modules[path].dw.std() > 20 * weight.std()
    before = draw(family)
    with one.apply(family):
        inside = draw(family)
    assert [i.tobytes() for i in draw(family)] == [i.tobytes() for i in before]
    assert [i.tobytes() for i in inside] != [i.tobytes() for i in before]
