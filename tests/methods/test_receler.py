"""Receler: erasers that start silent, stay silent outside the mask, and face states that are learnt against them."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from excise import Edit, erase, export
from excise.concepts.concept import Concept
from excise.errors import ModelError
from excise.families import family_of
from excise.methods.trained.material import Material, source_of
from excise.methods.trained.receler import Adversary, Rounds, spilled
from excise.methods.trained.receler_config import RecelerConfig
from excise.methods.trained.receler_hook import Erasers
from excise.training.attention import reading_layers
from excise.training.bottlenecks import Bottlenecks, bottleneck
from excise.training.problem import TrainingProblem

SMALL = {"steps": 3, "lr": 0.05, "batch": 2, "sampler_steps": 3, "adversary_steps": 2, "vocabulary": None}


@pytest.fixture(params=["sd", "sdxl", "sana"])
def pipe(request, make):
    return make(request.param)


def latents_of(family):
    return torch.randn(2, *family.latent_shape, generator=torch.Generator().manual_seed(0)), torch.tensor([300, 700])


def test_an_eraser_is_silent_at_first_and_its_teacher_is_the_untouched_model(pipe):
    family = family_of(pipe)
    (x, t), condition = latents_of(family), family.condition(["a cat", "a dog"])
    before = family.predict(x, t, condition)
    with Bottlenecks(family, reading_layers(family), 4, 0) as weights:
        assert torch.equal(family.predict(x, t, condition), before)
        with torch.no_grad():
            for p in weights.parameters.values():
                p.add_(0.05)
        assert not torch.equal(family.predict(x, t, condition), before)
        with weights.teacher():
            assert torch.equal(family.predict(x, t, condition), before)
        for path, added in weights.added.items():
            down, up = weights.parameters[f"{path}.down"], weights.parameters[f"{path}.up"]
            hidden = torch.randn(1, added.shape[1], added.shape[2])
            wanted = torch.nn.functional.gelu(hidden @ down.T) @ up.T
            assert_close(bottleneck(hidden, down, up), wanted)
    assert torch.equal(family.predict(x, t, condition), before)


def test_what_is_added_inside_the_mask_costs_nothing():
    added = {"one": torch.ones(1, 16, 3), "two": 2 * torch.ones(1, 4, 3)}
    mask = torch.zeros(1, 1, 4, 4)
    mask[..., :2, :] = 1  # the upper half
    assert float(spilled(added, torch.ones(1, 1, 4, 4))) == 0
    assert float(spilled(added, mask)) == pytest.approx((0.5 * 1 + 0.5 * 4) / 2)
    inside = {"one": added["one"].clone()}
    inside["one"][:, 8:] = 0
    assert float(spilled(inside, mask)) == 0


def rounds_of(family, **settings):
    config = RecelerConfig(batch=2, sampler_steps=3, tokens=3, **settings)
    problem = TrainingProblem(family, [Concept("cat")], {"object": ["a photo of a {}", "{}"]})
    weights = Bottlenecks(family, reading_layers(family), 4, 0)
    return config, problem, weights


def test_the_adversary_learns_states_behind_the_words_alone(pipe):
    family = family_of(pipe)
    config, problem, weights = rounds_of(family)
    with weights:
        batch = source_of(problem, config, weights, Material(), located=True).batch(torch.Generator().manual_seed(0))
        adversary = Adversary(3, 1e-3)
        with torch.no_grad():
            for p in weights.parameters.values():
                p.add_(0.1)
        goal = batch.teacher(batch.concept)
        losses = []
        for _ in range(8):
            prediction = family.predict(batch.x_t, batch.t, adversary.read(batch))
            losses.append(float((prediction - goal).square().mean().detach()))
            adversary.learn(batch, goal)
        assert losses[-1] < losses[0]
        own, learnt = (c.inputs["encoder_hidden_states"] for c in (batch.concept.teacher, adversary.read(batch)))
        for row, words in enumerate(batch.concept.words):
            last = int(words.nonzero().max())
            changed = (own[row] != learnt[row]).any(dim=-1).nonzero().flatten().tolist()
            assert changed
            assert set(changed) <= {last + 1, last + 2, last + 3}


def test_a_round_trains_the_erasers_and_goes_on_from_its_state(pipe):
    family = family_of(pipe)
    config, problem, weights = rounds_of(family, adversary_steps=2)
    with weights:
        source = source_of(problem, config, weights, Material(), located=True)
        one = Rounds(weights, source, [Adversary(3, 0.1)], config)
        losses = one(torch.Generator().manual_seed(0))
        gradients = torch.autograd.grad(losses["loss"], [*weights.parameters.values()])
        assert any(bool(g.any()) for g in gradients)
        two = Rounds(weights, source, [Adversary(3, 0.1)], config)
        two.load_state_dict(one.state_dict())
        again = [r(torch.Generator().manual_seed(1))["loss"] for r in (one, two)]
        assert torch.equal(*again)


def test_the_edit_is_a_hook_that_is_undone_bit_for_bit_and_not_exported(pipe, tmp_path):
    family = family_of(pipe)
    (x, t), condition = latents_of(family), family.condition(["a cat", "a dog"])
    before = family.predict(x, t, condition)
    edit = erase(pipe, ["cat"], "receler", **SMALL)
    assert [type(h) for h in edit.hooks] == [Erasers]
    with Edit.load(edit.save(tmp_path / "edit.safetensors")).apply(pipe):
        assert not torch.equal(family.predict(x, t, condition), before)
    assert torch.equal(family.predict(x, t, condition), before)
    with pytest.raises(ModelError, match="acts while the model draws"):
        export(edit, pipe, tmp_path)
