"""What Kolors does differently from SDXL, whose UNet it has."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_kolors import build
from torch.testing import assert_close

from excise import load
from excise.errors import ModelError
from excise.families import family_of
from excise.families.conditions import Condition

DOOR, POOLED = "encoder_hid_proj", "add_embedding.linear_1"


@pytest.fixture
def pipe():
    return build()


@pytest.fixture
def family(pipe):
    return family_of(pipe)


def predict(family, condition: Condition) -> torch.Tensor:
    latents = torch.randn(len(condition), *family.latent_shape, generator=torch.Generator().manual_seed(0))
    return family.predict(latents, torch.full((len(condition),), 500), condition)


def test_prompts_stand_first_and_their_padding_last(pipe, family):
    texts = ["a photo of a cat", "cat", ""]
    theirs, _, pooled, _ = pipe.encode_prompt(texts, do_classifier_free_guidance=False)
    ours = family.condition(texts).inputs
    assert torch.equal(ours["text_embeds"], pooled)
    for i, length in enumerate([7, 3, 2]):  # two special tokens before each
        own, row = ours["encoder_hidden_states"][i], theirs[i]
        assert_close(own[:length], row[-length:], rtol=1e-5, atol=1e-5)
        assert_close(own[length:], row[:-length], rtol=1e-5, atol=1e-5)


def test_tokens_are_counted_where_the_tokenizer_has_no_offsets(family):
    assert not family.pipe.tokenizer.is_fast
    states = family.encode(["a photo of the cat on grass", "cat", "on grass", ""], ["cat", None, 0, None])
    assert states.first.tolist() == [6, 2, 1, 1]
    assert states.last.tolist() == [6, 2, 1, 1]
    assert states.end.tolist() == [8, 2, 3, 1]  # the last token of the prompt: there is no end token
    sizes = {t: len(states.span(0, t)) for t in ("last", "subject", "from_last", "all_but_start", "all")}
    assert sizes == {"last": 1, "subject": 1, "from_last": 250, "all_but_start": 255, "all": 256}


def test_the_first_two_tokens_are_the_same_in_every_prompt_and_padding_is_not(family):
    states = family.encode(["a photo of a cat", "a photo of a dog"], ["cat", "dog"]).states
    assert_close(states[0, :6], states[1, :6], rtol=1e-5, atol=1e-5)
    assert (states[0, 7:] - states[1, 7:]).abs().amax(1).min() > 1e-2


def test_padding_is_read(family):
    condition = family.condition(["a cat"])
    rows = condition.inputs["encoder_hidden_states"].clone()
    rows[0, 100:] += 1
    changed = Condition({**condition.inputs, "encoder_hidden_states": rows})
    assert (predict(family, changed) - predict(family, condition)).abs().max() > 1e-3


def test_text_has_one_door_for_tokens_and_one_for_the_pooled_prompt(family):
    kv = family.projections()
    assert len(kv) == 2 * 8
    assert all(p.path.endswith(("attn2.to_k", "attn2.to_v")) for p in kv)
    assert [p.path for p in family.projections("ep")] == [DOOR, POOLED]
    inputs = family.inputs([DOOR], ["a cat"])[DOOR]
    assert torch.equal(inputs.rows, family.condition(["a cat"]).inputs["encoder_hidden_states"])
    assert bool(inputs.read.all())


def test_the_map_in_front_of_keys_and_values_is_part_of_the_text(family):
    weights = family.text_encoder_weights
    assert {n for n in weights if n.startswith(DOOR)} == {f"{DOOR}.weight", f"{DOOR}.bias"}
    assert not any("output_layer" in name for name in [*weights, *(m.path for m in family.maps("text_all"))])
    assert {m.part for m in family.maps("text_all")} == {"attention", "mlp"}
    assert len(family.maps("embedding")) == 1


def test_a_model_that_asks_for_zeros_is_drawn_with_the_empty_prompt():
    """The pipeline itself fails there without a negative prompt."""
    pipe = build(zeros=True)
    family = family_of(pipe)
    more = {"num_inference_steps": 2, "guidance_scale": 3.0, "generator": torch.Generator().manual_seed(0)}
    theirs = pipe(prompt="a cat", negative_prompt="", **more).images[0]
    ours = family.sample(["a cat"], [0], steps=2, guidance=3.0, batch=1)[0]
    assert np.abs(np.asarray(ours).astype(int) - np.asarray(theirs).astype(int)).max() <= 1
    with pytest.raises(AttributeError, match="'NoneType' object has no attribute 'repeat'"):
        pipe(prompt="a cat", **more)


def test_the_noise_is_the_schedulers(pipe, family):
    """In the scheduler's units the same latents are as large as their noise, and its times go to 1100."""
    plan = family.noising
    assert (plan.kind, plan.levels) == ("epsilon", 1100)
    clean, noise = torch.randn(2, 2, *family.latent_shape, generator=torch.Generator().manual_seed(0)).unbind()
    pipe.scheduler.set_timesteps(1100)
    t = pipe.scheduler.timesteps[[100, 900]]
    theirs = [pipe.scheduler.add_noise(clean[[i]], noise[[i]], t[[i]]) for i in range(2)]
    scaled = [x * pipe.scheduler.alphas_cumprod[int(s)] ** 0.5 for x, s in zip(theirs, t, strict=True)]
    assert_close(plan.add(clean, noise, t), torch.cat(scaled), rtol=1e-4, atol=1e-4)


def test_a_folder_that_is_opened_for_its_text_alone(pipe, family, tmp_path):
    pipe.save_pretrained(tmp_path)
    opened = load(tmp_path, device="cpu", whole=False)
    assert opened.name == "kolors"
    theirs, ours = (f.encode(["a photo of a cat"], ["cat"]) for f in (family, opened))
    assert_close(ours.states, theirs.states, rtol=1e-5, atol=1e-5)
    assert_close(ours.pooled, theirs.pooled, rtol=1e-5, atol=1e-5)
    one, other = (f.sample(["a cat"], [0], steps=1, guidance=2.0, batch=1)[0] for f in (family, opened))
    assert np.abs(np.asarray(one).astype(int) - np.asarray(other).astype(int)).max() <= 1


def test_a_unet_that_takes_text_otherwise_is_refused(pipe):
    pipe.unet.register_to_config(encoder_hid_dim_type="text_image_proj")
    with pytest.raises(ModelError, match="takes its text by 'text_image_proj'; expected 'text_proj'"):
        family_of(pipe)
