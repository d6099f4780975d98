"""What every adapter promises, on tiny random models of each family: what the pipeline itself would have done."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from conftest import tiny_pipe, tiny_sana
from diffusers import (
    DPMSolverMultistepScheduler,
    EDMEulerScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    UniPCMultistepScheduler,
)
from torch.testing import assert_close

from excise import erase
from excise.errors import ConceptError, ModelError, WrongBaseError
from excise.families import family_of
from excise.families.noising import noising


@pytest.fixture
def family(any_pipe):
    return family_of(any_pipe)


def stock(family, prompt: str, seed: int) -> np.ndarray:
    """The pipeline called with a prompt, as its users do."""
    side = {"height": family.image_size, "width": family.image_size}
    own = {"use_resolution_binning": False} if family.name == "sana" else {}
    if family.name == "sana" and family.instruction is None:
        own["complex_human_instruction"] = None
    generator = torch.Generator().manual_seed(seed)
    images = family.pipe(prompt, num_inference_steps=2, guidance_scale=3.0, generator=generator, **side, **own).images
    return np.asarray(images[0]).astype(int)


def test_pictures_are_those_of_the_stock_pipeline(family):
    ours = family.sample(["a cat", "a dog"], [3, 4], steps=2, guidance=3.0, batch=2)
    for image, prompt, seed in zip(ours, ["a cat", "a dog"], [3, 4], strict=True):
        assert np.abs(np.asarray(image).astype(int) - stock(family, prompt, seed)).max() <= 1


def test_a_condition_does_not_depend_on_its_batch(family):
    texts = ["a cat", "a fire engine in neon style", ""]
    together = family.condition(texts)
    assert len(together) == 3
    for i, text in enumerate(texts):
        alone = family.condition([text])
        for name, rows in together[[i]].inputs.items():
            assert_close(rows, alone.inputs[name], rtol=1e-4, atol=1e-5)


def test_projections_read_the_states_that_encode_gives(family):
    """The inputs that reach the keys and values while the denoiser runs are `TextStates.states`."""
    states = family.encode(["a cat"])
    seen = []
    for p in family.projections():
        p.module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    family.predict(torch.randn(1, 4, 8, 8), torch.tensor([500]), family.condition(["a cat"]))
    assert len(seen) == len(family.projections())
    for read in seen:
        assert_close(read[:, : states.at.shape[1]], states.states, rtol=1e-5, atol=1e-5)  # no pads in SANA


def test_token_positions(family):
    states = family.encode(["a fire engine in neon style", "cat", "on a table"], ["fire engine", None, 0])
    tokenizer = family.pipe.tokenizer
    subject = len(tokenizer("a fire engine").input_ids) - len(tokenizer("a").input_ids)
    assert states.first.tolist() == [2, 1, 0]
    assert states.last.tolist() == [1 + subject, 1, 0]
    assert states.end.tolist() == [
        len(tokenizer(t).input_ids) - 1 for t in ("a fire engine in neon style", "cat", "on a table")
    ]
    whole = int(states.end[0]) + 1 if family.name == "sana" else 32
    sizes = {t: len(states.span(0, t)) for t in ("last", "subject", "from_last", "all")}
    assert sizes == {"last": 1, "subject": subject, "from_last": whole - 1 - subject, "all": whole}


def test_subjects_that_do_not_stand_there_and_prompts_that_do_not_fit(family):
    with pytest.raises(ConceptError, match="does not stand as words"):
        family.encode(["a cathedral"], ["cat"])
    with pytest.raises(ConceptError, match="tokens; 32 fit"):
        family.encode(["cat dog " * 40])


def test_latents_decode_to_their_picture(family):
    """Scaled as the denoiser sees them: what the pipeline decodes again."""
    image = family.sample(["a cat"], [0], steps=2, guidance=1.0, batch=1)[0]
    vae = family.pipe.vae
    latents = family.latents([image])
    assert latents.shape == (1, 4, 8, 8)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 127.5 - 1
    encoded = vae.encode(pixels)
    raw = encoded.latent if family.name == "sana" else encoded.latent_dist.mean
    assert_close(latents, raw * vae.config.scaling_factor)


def test_the_noise_in_noised_latents_is_found_again(family):
    """A denoiser that predicts its target exactly: the noise it implies is the noise that was put in."""
    plan, g = noising(family.pipe.scheduler), torch.Generator().manual_seed(0)
    clean, noise = (torch.randn(6, 4, 8, 8, generator=g) for _ in range(2))
    t = plan.times(6, generator=g)
    noised = plan.add(clean, noise, t)
    assert_close(plan.noise(plan.target(clean, noise, t), noised, t), noise, rtol=1e-3, atol=1e-4)
    scheduler = family.pipe.scheduler
    if plan.kind != "flow":
        assert_close(noised, scheduler.add_noise(clean, noise, t))
    else:
        t = scheduler.timesteps[[0, 10, 300, 600, 900, 999]]
        assert_close(plan.add(clean, noise, t), scheduler.scale_noise(clean, t, noise), rtol=1e-4, atol=1e-5)


def test_sana_with_its_instruction_does_as_the_pipeline_does(gemma_tokenizer):
    roomy = copy.deepcopy(gemma_tokenizer)
    roomy.model_max_length = 10_000
    family = family_of(tiny_sana(roomy))
    assert family.instruction is not None
    assert family.max_tokens == 300
    ours = family.sample(["a fire engine in neon style"], [3], steps=2, guidance=3.0, batch=1)[0]
    assert np.abs(np.asarray(ours).astype(int) - stock(family, "a fire engine in neon style", 3)).max() <= 1
    # What follows the subject changes nothing in its states, another subject does.
    one, two, three = (
        family.encode([t], [s])
        for t, s in (
            ("a fire engine in neon style", "fire engine"),
            ("a fire engine in sepia", "fire engine"),
            ("a sailboat in neon style", "sailboat"),
        )
    )
    assert_close(one.span(0, "subject"), two.span(0, "subject"), rtol=1e-3, atol=1e-4)
    assert (one.span(0, "last") - three.span(0, "last")).abs().max() > 1e-2
    assert int(one.end[0]) - int(one.last[0]) == len(roomy(" in neon style", add_special_tokens=False).input_ids)


def test_an_edit_of_another_family_is_refused(tokenizer, any_pipe):
    edit = erase(tiny_pipe(tokenizer), ["cat"], "uce", vocabulary=None)
    family = family_of(any_pipe)
    if family.name == "sd":
        with edit.apply(any_pipe):
            return
    with pytest.raises(WrongBaseError, match=f"for a model of the family 'sd' .* is of the family '{family.name}'"):
        edit.apply(any_pipe)


@pytest.mark.parametrize(
    ("scheduler", "told"),
    [
        (DPMSolverMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction"), 1.0),
        (FlowMatchEulerDiscreteScheduler(), 1.0),
        (FlowMatchHeunDiscreteScheduler(shift=3.0), 3.0),
        (UniPCMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=2.0), 2.0),
    ],
)
def test_every_flow_scheduler_is_read_as_one(scheduler, told):
    plan = noising(scheduler)
    assert (plan.kind, plan.shift) == ("flow", told)


def test_a_scheduler_that_noises_in_another_way_is_named():
    with pytest.raises(ModelError, match="EDMEulerScheduler noises in its own way"):
        noising(EDMEulerScheduler())
