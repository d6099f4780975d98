"""SLD against its formula element by element, and on models: warm-up, momentum, batches, every family."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from excise import erase
from excise.families import family_of
from excise.methods.inference.sld import safety_term
from excise.methods.inference.sld_config import LEVELS, SLDConfig

SIDE = 3


def naive(u, p, s, nu, term):
    """Equations 4 to 8, one element after another."""
    gamma, after = torch.zeros_like(p), torch.zeros_like(p)
    for i in range(p.numel()):
        a, b, c, m = (float(x.reshape(-1)[i]) for x in (u, p, s, nu))
        mu = min(1.0, term.scale * abs(b - c)) if b - c < term.threshold else 0.0
        g = mu * (c - a) + term.momentum_scale * m
        gamma.view(-1)[i] = g
        after.view(-1)[i] = term.momentum_decay * m + (1 - term.momentum_decay) * g
    return gamma, after


@given(st.sampled_from(sorted(LEVELS)), st.integers(0, 10_000), st.floats(1e-4, 3.0))
def test_the_term_is_that_of_the_paper(level, seed, size):
    generator = torch.Generator().manual_seed(seed)
    u, p, s, nu = (size * torch.randn(1, 2, SIDE, SIDE, generator=generator, dtype=torch.float64) for _ in range(4))
    for found, wanted in zip(safety_term(u, p, s, nu, LEVELS[level]), naive(u, p, s, nu, LEVELS[level]), strict=True):
        assert_close(found, wanted)


def test_a_number_that_is_given_takes_the_place_of_the_levels():
    term = SLDConfig(level="strong", warmup=0, threshold=1.0).term
    assert (term.scale, term.warmup, term.threshold) == (2000.0, 0, 1.0)
    assert (term.momentum_scale, term.momentum_decay) == (0.5, 0.7)


class Spy:
    """What a denoiser was asked and what came out of its guided calls."""

    def __init__(self, family):
        self.calls: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._handle = family.denoiser.register_forward_hook(self._see, with_kwargs=True)

    def _see(self, module, args, kwargs, output):
        latents = args[0] if args else kwargs["hidden_states"]
        self.calls.append((latents.clone(), output[0].clone()))

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._handle.remove()


@pytest.mark.parametrize("name", ["sd", "sdxl", "sana"])
def test_stock_guidance_yields_the_formula(make, name):
    """The hook's outputs, step by step, from the predictions that the denoiser makes by itself."""
    family = family_of(make(name))
    edit = erase(family, ["cat"], method="sld", vocabulary=None, level="strong", warmup=1)
    term, steps = edit.hooks[0].term, 3
    with edit.apply(family), Spy(family) as outside:  # runs behind the hook, and for the third predictions too
        family.sample(["a dog", "a tree"], [0, 1], steps=steps, guidance=3.0, batch=2)
    guided = [(x, out) for x, out in outside.calls if len(x) == 4]
    assert len(guided) == steps
    with Spy(family) as inside:  # the first step's predictions without the edit
        family.sample(["a dog", "a tree"], [0, 1], steps=steps, guidance=3.0, batch=2)
    assert torch.equal(guided[0][1], inside.calls[0][1])  # the warm-up
    concepts = [out for x, out in outside.calls if len(x) == 2]
    u, p = inside.calls[0][1].float().chunk(2)
    _, nu = safety_term(u, p, concepts[0].float(), torch.zeros_like(u), term)
    with Spy(family) as plain:
        with edit.apply(family, 0.0):
            pass
        for latents, _ in guided[1:2]:
            assert_close(latents, inside.calls[1][0])
        family.sample(["a dog", "a tree"], [0, 1], steps=steps, guidance=3.0, batch=2)
    u, p = plain.calls[1][1].float().chunk(2)
    gamma, _ = safety_term(u, p, concepts[1].float(), nu, term)
    assert gamma.abs().max() > 0
    assert_close(guided[1][1].float(), torch.cat([u, p - gamma]), rtol=1e-4, atol=1e-5)


def test_momentum_begins_anew_with_each_generation_and_batches_do_not_matter(pipe):
    family = family_of(pipe)
    edit = erase(family, ["cat"], method="sld", vocabulary=None, level="max")

    def images(batch):
        drawn = family.sample(["a cat", "a dog", "a tree"], [0, 1, 2], steps=3, guidance=3.0, batch=batch)
        return np.stack([np.asarray(i) for i in drawn]).astype(int)

    with edit.apply(family):
        whole = images(3)
        assert np.array_equal(images(3), whole)
        assert np.abs(images(1) - whole).max() <= 1
        several = pipe("a cat", num_images_per_prompt=2, num_inference_steps=3, output_type="np").images
        assert np.isfinite(several).all()


def test_without_guidance_there_is_nothing_to_do(pipe):
    family = family_of(pipe)
    edit = erase(family, ["cat"], method="sld", vocabulary=None, level="max")
    condition = family.condition(["a cat", "a dog"])
    x, t = torch.randn(2, *family.latent_shape), torch.tensor([500, 500])

    def plain():
        return np.asarray(family.sample(["a cat"], [0], steps=2, guidance=1.0, batch=1)[0])

    predicted, drawn = family.predict(x, t, condition), plain()
    with edit.apply(family):
        pipe("a cat", num_inference_steps=1)  # leaves a guidance scale behind
        assert torch.equal(family.predict(x, t, condition), predicted)
        assert np.array_equal(plain(), drawn)
