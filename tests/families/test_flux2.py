"""What FLUX.2 does alone: three layers in a row, padding that is read, whitened patches, two kinds of guidance."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from diffusers import Flux2KleinInpaintPipeline
from diffusers.pipelines.flux2 import pipeline_flux2_klein
from diffusers.pipelines.flux2.pipeline_flux2 import compute_empirical_mu
from tiny_flux2 import dev, klein, mistral3, tokenizer_of_dev
from torch.testing import assert_close

from excise.errors import ModelError
from excise.families import family_of
from excise.families.flux2 import Flux2
from excise.families.text_known import KnownStates

PROMPTS, SUBJECTS = ["a photo of a cat on grass", "the dog"], ["cat", "dog"]
KINDS = {"klein": klein, "left": dev, "right": lambda: dev("right")}


@pytest.fixture(scope="module", params=KINDS)
def family(request):
    return family_of(KINDS[request.param]())


def test_three_layers_stand_side_by_side(family):
    """The row of a token is that of an encoder that is given its turn alone, layer after layer."""
    tokens, states = family._tokens(PROMPTS, SUBJECTS), family.encode(PROMPTS, SUBJECTS)
    ids = tokens.ids[:1, tokens.read[0], 0]
    layers = family.pipe.text_encoder(ids, output_hidden_states=True).hidden_states
    expected = torch.cat([layers[i] for i in ([9, 18, 27] if family._klein else [10, 20, 30])], dim=-1)
    begin = int(states.first[0] - tokens.first[0])
    assert_close(states.states[0, begin : begin + ids.shape[1]], expected[0], rtol=1e-3, atol=1e-4)
    assert bool(states.read.all())


def test_a_prompt_encoded_to_its_subject_has_the_rows_of_the_whole(family, tmp_path):
    whole, known = family.encode(PROMPTS, SUBJECTS), KnownStates(tmp_path)
    for memory in (None, known, known):
        tree = family.encode(PROMPTS, SUBJECTS, until=["last", "end"], known=memory)
        assert_close(tree.one_each(tree.last), whole.one_each(whole.last), rtol=1e-3, atol=1e-4)
        for name in ("first", "last", "end", "read"):
            assert torch.equal(getattr(tree, name), getattr(whole, name)), name
    assert [family.last_token(p, s) for p, s in zip(PROMPTS, SUBJECTS, strict=True)] == whole.last.tolist()
    with pytest.raises(ModelError, match="were not encoded"):
        tree.span(0, "from_last")


@pytest.mark.parametrize(("kind", "holds"), [("klein", True), ("left", False), ("right", True)])
def test_padding_behind_a_prompt_holds_what_stands_in_it(kind, holds):
    family = family_of(KINDS[kind]())
    cat, dog = family.condition(["a photo of a cat", "a photo of a dog"]).inputs["encoder_hidden_states"]
    pad = 0 if kind == "left" else -1
    assert ((cat - dog)[pad].abs().max() > 1e-3) == holds


def test_the_mark_of_a_picture_is_no_part_of_a_prompt_of_dev():
    family = family_of(dev())
    marked, plain = family.encode(["a [IMG]cat on grass"], ["cat"]), family.encode(["a cat on grass"], ["cat"])
    assert torch.equal(marked.states, plain.states)
    assert marked.last.tolist() == plain.last.tolist()
    assert family.encode(["a [IMG]cat on grass"], [10]).last.tolist() == plain.last.tolist()


def test_latents_are_whitened_patches():
    pipe = klein()
    family = family_of(pipe)
    pictures = family.sample(["a cat"], [0], steps=1, guidance=1.0, batch=1)
    latents = family.latents(pictures)
    assert family.latent_shape == (16, 4, 4)
    pixels = torch.from_numpy(np.array(pictures[0])).permute(2, 0, 1)[None].float() / 127.5 - 1
    assert_close(latents, pipe._encode_vae_image(pixels, None), rtol=1e-4, atol=1e-5)
    mean, deviation = pipe.vae.bn.running_mean, (pipe.vae.bn.running_var + pipe.vae.config.batch_norm_eps).sqrt()
    restored = pipe._unpatchify_latents(latents * deviation.view(1, -1, 1, 1) + mean.view(1, -1, 1, 1))
    theirs = pipe.image_processor.postprocess(pipe.vae.decode(restored).sample, output_type="pil")[0]
    assert np.array_equal(np.asarray(family.decode(latents)[0]), np.asarray(theirs))


def test_dev_is_given_its_guidance():
    family = family_of(dev())
    given = []

    def note(_, args, kwargs):
        given.append(kwargs["guidance"])

    hook = family.denoiser.register_forward_pre_hook(note, with_kwargs=True)
    family.sample(["a cat"], [0], steps=1, guidance=7.0, batch=1)
    family.predict(torch.zeros(2, *family.latent_shape), torch.tensor([500.0, 400.0]), family.condition(PROMPTS))
    hook.remove()
    assert [g.tolist() for g in given] == [[4.0], [4.0, 4.0]]


def test_a_distilled_klein_has_no_second_half_and_says_nothing_of_it(monkeypatch):
    family = family_of(klein(distilled=True))
    calls, said = [], []
    monkeypatch.setattr(pipeline_flux2_klein.logger, "warning", said.append)
    hook = family.denoiser.register_forward_hook(lambda *_: calls.append(1))
    family.sample(["a cat"], [0], steps=2, guidance=4.0, batch=1)
    hook.remove()
    assert (len(calls), said) == (2, [])


def test_the_schedule_is_that_of_the_pipelines_steps():
    for distilled, steps in ((False, 50), (True, 4)):
        family = family_of(klein(distilled))
        assert family.noising.shift == pytest.approx(math.exp(compute_empirical_mu(16, steps)))


def test_single_blocks_have_their_queries_keys_and_values_in_one_map():
    joint = family_of(klein()).maps("joint")
    assert len(joint) == 8 + 2
    assert [(m.path, m.block, m.part) for m in joint[-1:]] == [
        ("single_transformer_blocks.1.attn.to_qkv_mlp_proj", "single_transformer_blocks.1", "qkv")
    ]


def test_a_sibling_draws_as_the_plain_pipeline():
    pipe = klein()
    sibling = family_of(Flux2KleinInpaintPipeline(**pipe.components))
    assert isinstance(sibling, Flux2)
    ours, theirs = (f.sample(["a cat"], [0], steps=2, guidance=2.0, batch=1)[0] for f in (sibling, family_of(pipe)))
    assert np.array_equal(np.asarray(ours), np.asarray(theirs))


def test_a_text_encoder_of_another_model_is_refused():
    pipe = klein()
    pipe.register_modules(text_encoder=mistral3(tokenizer_of_dev("left")))
    family_of(pipe)  # as wide, and deep enough
    pipe.transformer.register_to_config(joint_attention_dim=64)
    with pytest.raises(ModelError, match=r"reads rows of width 64, but layers \(9, 18, 27\) .* make rows of 48; load"):
        family_of(pipe)
    pipe.register_modules(text_encoder=None)
    family_of(pipe)


def test_a_tokenizer_without_a_chat_template_is_refused():
    for pipe in (klein(), dev()):
        pipe.tokenizer.chat_template = None
        with pytest.raises(ModelError, match="has no chat template"):
            family_of(pipe).encode(["a cat"])
