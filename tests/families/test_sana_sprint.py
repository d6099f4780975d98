"""What SANA-Sprint does differently from SANA."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, SanaSprintImg2ImgPipeline
from tiny_sana_sprint import build, call, flow
from torch.testing import assert_close

from excise.errors import ModelError
from excise.families import family_of


@pytest.fixture
def pipe():
    return build()


@pytest.fixture
def family(pipe):
    return family_of(pipe)


def predict(family, latents, time: float = 500.0, text: str = "a cat"):
    return family.predict(latents, torch.full((len(latents),), time), family.condition([text] * len(latents)))


def test_noised_latents_and_targets_are_those_of_the_samplers_trigflow(family):
    """cos(a) x + sin(a) e, and its derivative cos(a) e - sin(a) x, are what the flow stands for."""
    clean, noise = torch.randn(2, 3, *family.latent_shape, generator=torch.Generator().manual_seed(0)).unbind()
    angle = torch.tensor([0.3, 0.8, 1.3])
    a = angle.view(-1, 1, 1, 1)
    theirs = 0.5 * (a.cos() * noise - a.sin() * clean), angle, 0.5 * (a.cos() * clean + a.sin() * noise)
    target, t, noised = flow(*theirs)
    plan = family.noising
    assert (plan.kind, family.prediction, plan.shift) == ("flow", "flow", 1.0)
    assert_close(plan.add(clean, noise, t), noised, rtol=0, atol=1e-5)
    assert_close(plan.target(clean, noise, t), target, rtol=0, atol=1e-5)
    assert_close(plan.clean(target, noised, t), clean, rtol=0, atol=1e-5)


def test_a_clean_picture_is_the_samplers(pipe, family, monkeypatch):
    """Of one prediction, `noising` and the scheduler imply the same clean latents."""
    steps, step = [], pipe.scheduler.step

    def watched(output, t, latents, *args, **kwargs):
        result = step(output, t, latents, *args, **kwargs)
        steps.append((*flow(output, t, latents), result[1]))
        return result

    monkeypatch.setattr(pipe.scheduler, "step", watched)
    pipe(prompt="a cat", height=32, width=32, output_type="latent", **call(1.0))
    assert len(steps) == 2
    for output, t, noised, clean in steps:
        assert_close(family.noising.clean(output, noised, t), clean / 0.5, rtol=0, atol=1e-5)


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_any_number_of_steps_is_drawn(pipe, family, steps):
    ours = family.sample(["a cat"], [0], steps=steps, guidance=4.5, batch=1)[0]
    more = {} if steps == 2 else {"intermediate_timesteps": None}
    theirs = pipe(
        prompt="a cat",
        generator=torch.Generator().manual_seed(0),
        num_inference_steps=steps,
        height=32,
        width=32,
        **call(1.0),
        **more,
    ).images[0]
    assert np.array_equal(np.asarray(ours), np.asarray(theirs))


def test_guidance_of_a_caller_changes_nothing(family):
    one, other = (family.sample(["a cat"], [0], steps=2, guidance=g, batch=1)[0] for g in (1.0, 8.0))
    assert np.array_equal(np.asarray(one), np.asarray(other))


def test_the_length_of_keys_is_not_read(family):
    """Their norm takes it away, up to its epsilon; that of values is read."""
    latents = torch.randn(1, *family.latent_shape, generator=torch.Generator().manual_seed(0))
    before = predict(family, latents)
    changes = []
    for role in "kv":
        weights = [family.parameter(p.path) for p in family.projections(role)]
        biases = [p.module.bias for p in family.projections(role)]
        with torch.no_grad():
            for weight in [*weights, *biases]:
                weight *= 0.5
            changes.append(float((predict(family, latents) - before).abs().max()))
            for weight in [*weights, *biases]:
                weight *= 2
    assert changes[0] < 1e-3 < changes[1]


def test_the_instruction_stands_before_every_prompt_where_there_is_room():
    pipe = build(length=2048)
    family = family_of(pipe)
    assert family.instruction
    states = family.encode(["a photo of a Cat on grass"], ["cat"])
    assert states.last.tolist() == [5]
    got = family.inputs([family.projections("v")[0].path], ["a photo of a Cat on grass"])
    rows = next(iter(got.values()))
    assert_close(rows.rows[0][rows.read[0]], states.span(0, "all"), rtol=1e-4, atol=1e-5)


def test_its_img2img_sibling_draws_from_words(pipe):
    sibling = SanaSprintImg2ImgPipeline(**pipe.components)
    images = [family_of(p).sample(["a cat"], [0], steps=2, guidance=1.0, batch=1)[0] for p in (pipe, sibling)]
    assert np.array_equal(*map(np.asarray, images))


def test_another_scheduler_is_refused_for_training_alone():
    family = family_of(build(scheduler=FlowMatchEulerDiscreteScheduler()))
    with pytest.raises(ModelError, match="the scheduler predicts 'None'; expected the SCMScheduler"):
        family.check_trainable()
    assert len(family.projections()) == 4


def test_a_transformer_without_guidance_is_refused():
    with pytest.raises(ModelError, match="takes no guidance .*load a model of SANA-Sprint"):
        family_of(build(guidance=False))
