"""What Lumina-Image 2.0 does differently from the other transformers of one stream."""

from __future__ import annotations

import math

import pytest
import torch
from tiny_lumina2 import build
from torch.testing import assert_close

from excise import erase
from excise.errors import ModelError
from excise.families import family_of
from excise.families.conditions import Condition

DOOR = "time_caption_embed.caption_embedder.1"


@pytest.fixture
def pipe():
    return build()


@pytest.fixture
def family(pipe):
    return family_of(pipe)


def predict(family, condition: Condition) -> torch.Tensor:
    latents = torch.randn(len(condition), *family.latent_shape, generator=torch.Generator().manual_seed(0))
    return family.predict(latents, torch.full((len(condition),), 500.0), condition)


def test_pictures_are_eight_times_as_large_as_latents(family):
    assert family.image_size == 64
    assert family.latent_shape == (4, 8, 8)
    assert family.sample(["a cat"], [0], steps=1, guidance=1.0, batch=1)[0].size == (64, 64)


def test_the_system_prompt_is_read_in_front_of_the_prompt(pipe, family):
    before = len(pipe.tokenizer(f"{pipe.system_prompt} <Prompt Start>").input_ids)
    states = family.encode(["a photo of a cat on grass"], ["cat"])
    assert states.first.tolist() == states.last.tolist() == [before + 4]
    assert states.end.tolist() == [before + 6]  # the last word: there is no end token
    assert bool(states.read[0, : before + 7].all())
    assert int(states.read.sum()) == before + 7
    condition = family.condition(["a cat"])
    rows = condition.inputs["encoder_hidden_states"].clone()
    rows[0, before // 2] += 1
    changed = Condition({**condition.inputs, "encoder_hidden_states": rows}, condition.masks)
    assert (predict(family, changed) - predict(family, condition)).abs().max() > 1e-3


def test_padding_is_not_read(family):
    condition = family.condition(["a cat"])
    rows = condition.inputs["encoder_hidden_states"].clone()
    rows[0, int(condition.inputs["encoder_attention_mask"].sum()) :] += 1
    changed = Condition({**condition.inputs, "encoder_hidden_states": rows}, condition.masks)
    assert_close(predict(family, changed), predict(family, condition), rtol=0, atol=1e-6)


def test_the_unconditional_half_has_no_system_prompt(pipe, family):
    free = family.unconditional().inputs
    assert int(free["encoder_attention_mask"].sum()) == 1  # the start token
    assert int(family.condition([""]).inputs["encoder_attention_mask"].sum()) > 1
    assert free["encoder_hidden_states"].shape == family.condition([""]).inputs["encoder_hidden_states"].shape


def test_a_new_system_prompt_is_followed(pipe, family):
    long = family.last_token("a cat", "cat")
    pipe.system_prompt = "a photo"
    assert family.last_token("a cat", "cat") < long
    states = family.encode(["a cat"], ["cat"])
    assert int(states.last[0]) == family.last_token("a cat", "cat")
    got = family.inputs([DOOR], ["a cat"])[DOOR]
    assert_close(got.rows[0][got.read[0]], states.span(0, "all"), rtol=1e-4, atol=1e-5)


def test_methods_that_enter_a_guided_call_are_refused(family):
    """The pipeline makes one call for each half, which nothing tells from two pictures in one call."""
    with pytest.raises(ModelError, match=r"sld needs .*\(guided_call\), which the model family 'lumina2' does not"):
        erase(family, ["cat"], "sld", vocabulary=None)


def test_the_picture_is_refined_alone(family):
    assert {m.block.split(".")[0] for m in family.maps("joint")} == {"layers"}
    assert {m.block.split(".")[0] for m in family.attention_maps() if m.source == "refiner"} == {"context_refiner"}
    assert {m.block.split(".")[0] for m in family.attention_maps() if m.source == "self"} == {"noise_refiner"}


def test_the_schedule_shifts_by_the_number_of_channels():
    """The pipeline takes the channels of its latents for their tokens, so that every size has one shift."""
    pipe = build(use_dynamic_shifting=True)
    family = family_of(pipe)
    mu = 0.5 + (1.15 - 0.5) * (4 - 256) / (4096 - 256)
    assert family.noising.shift == pytest.approx(math.exp(mu))
    pipe(prompt="a cat", num_inference_steps=4, height=64, width=64, max_sequence_length=64, output_type="latent")
    uniform = torch.linspace(1.0, 0.25, 4)
    k = family.noising.shift
    assert_close(pipe.scheduler.sigmas[:-1], k * uniform / (1 + (k - 1) * uniform))
