"""What Qwen-Image does alone: an instruction that is cut off, a negative prompt of a space, films of one frame."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import QwenImageImg2ImgPipeline
from diffusers.pipelines.qwenimage import pipeline_qwenimage
from tiny_qwenimage import build
from torch.testing import assert_close

from excise.errors import ModelError
from excise.families import family_of
from excise.families.qwenimage import QwenImage

PROMPTS, SUBJECTS = ["a photo of a cat on grass", "the dog"], ["cat", "dog"]


@pytest.fixture
def pipe():
    return build()


@pytest.fixture
def family(pipe):
    return family_of(pipe)


def test_rows_begin_behind_the_instruction(pipe, family):
    states = family.encode([*PROMPTS, "cat", "on grass", ""], [*SUBJECTS, None, 0, None])
    assert states.first.tolist() == [4, 1, 0, 0, 0]
    assert states.last.tolist() == [4, 1, 0, 0, 0]
    assert states.end.tolist() == [7, 2, 1, 2, 0]
    assert states.read.sum(dim=1).tolist() == [12, 7, 6, 7, 5]
    assert not states.start
    sizes = {t: len(states.span(0, t)) for t in ("last", "from_last", "all_but_start", "all")}
    assert sizes == {"last": 1, "from_last": 8, "all_but_start": 12, "all": 12}
    assert [family.last_token(p, s) for p, s in zip(PROMPTS, SUBJECTS, strict=True)] == [4, 1]


def test_rows_are_normed_before_the_door(family):
    """A prompt's rows are those of the pipeline behind `txt_norm`, however far each prompt is encoded."""
    condition, states = family.condition(PROMPTS), family.encode(PROMPTS, SUBJECTS)
    normed = family.denoiser.txt_norm(condition.inputs["encoder_hidden_states"])
    mask = condition.inputs["encoder_hidden_states_mask"].bool()
    assert torch.equal(mask, states.read)
    assert_close(states.states[mask], normed[mask], rtol=1e-4, atol=1e-5)
    tree = family.encode(PROMPTS, SUBJECTS, until=["last", "last"])
    assert_close(tree.one_each(tree.last), states.one_each(states.last), rtol=1e-4, atol=1e-5)
    assert "txt_norm.weight" in family.text_encoder_weights


def test_an_empty_subject_at_the_front_stands_at_the_first_row(family):
    whole = family.encode(["on grass", ""], [0, 0])
    tree = family.encode(["on grass", ""], [0, 0], until=["last", "end"])
    assert tree.last.tolist() == [0, 0]
    assert_close(tree.one_each(tree.last), whole.one_each(whole.last), rtol=1e-4, atol=1e-5)


def test_the_instruction_must_have_the_tokens_that_are_cut(pipe):
    pipe.prompt_template_encode = pipe.prompt_template_encode.replace("shape, ", "")
    with pytest.raises(ModelError, match=r"makes 32 tokens of the instruction .* expected 34, which the pipeline cuts"):
        family_of(pipe)


def test_a_transformer_that_takes_guidance_is_refused(pipe):
    pipe.transformer.register_to_config(guidance_embeds=True)
    with pytest.raises(ModelError, match="takes guidance as an input"):
        family_of(pipe)


def test_the_mask_is_left_out_where_nothing_is_padded(family):
    given = []

    def note(_, args, kwargs):
        given.append(kwargs["encoder_hidden_states_mask"])

    family.denoiser.register_forward_pre_hook(note, with_kwargs=True)
    for texts in (PROMPTS, PROMPTS[:1]):
        family.predict(torch.zeros(len(texts), *family.latent_shape), torch.full((len(texts),), 500.0),
                       family.condition(texts))  # fmt: skip
    assert given[0].shape == (2, 12)
    assert given[1] is None


def test_guidance_keeps_the_norm_of_every_packed_token(family):
    steps, step = [], family.pipe.scheduler.step

    def watched(output, t, latents, *args, **kwargs):
        steps.append((output, t, latents))
        return step(output, t, latents, *args, **kwargs)

    family.pipe.scheduler.step = watched
    family.sample(PROMPTS[:1], [0], steps=1, guidance=4.0, batch=1)
    output, t, latents = steps[0]
    time = t.reshape(1)
    with torch.no_grad():
        natural = family.pipe._unpack_latents(latents, 16, 16, 2)[:, :, 0]
        cond, free = (family.predict(natural, time, c) for c in (family.condition(PROMPTS[:1]), family.unconditional()))
    packed = [family.pipe._pack_latents(x, 1, 4, 8, 8) for x in (cond, free + 4.0 * (cond - free))]
    assert_close(output.norm(dim=-1), packed[0].norm(dim=-1), rtol=1e-4, atol=1e-4)
    assert torch.nn.functional.cosine_similarity(output, packed[1], dim=-1).min() > 0.9999


def test_nothing_is_said_of_a_negative_prompt_without_guidance(family, monkeypatch):
    said = []
    monkeypatch.setattr(pipeline_qwenimage.logger, "warning", said.append)
    for guidance in (1.0, 2.0):
        family.sample(PROMPTS[:1], [0], steps=1, guidance=guidance, batch=1)
    assert said == []


def test_latents_are_whitened_frames(pipe, family):
    pictures = family.sample(["a cat"], [0], steps=1, guidance=1.0, batch=1)
    latents = family.latents(pictures)
    assert family.latent_shape == (4, 8, 8)
    mean, deviation = (
        torch.tensor(f).view(1, 4, 1, 1) for f in (pipe.vae.config.latents_mean, pipe.vae.config.latents_std)
    )
    pixels = torch.from_numpy(np.array(pictures[0])).permute(2, 0, 1)[None, :, None].float() / 127.5 - 1
    raw = pipe.vae.encode(pixels).latent_dist.mode()[:, :, 0]
    assert_close(latents, (raw - mean) / deviation, rtol=1e-4, atol=1e-5)
    decoded = pipe.vae.decode((latents * deviation + mean)[:, :, None]).sample[:, :, 0]
    theirs = pipe.image_processor.postprocess(decoded, output_type="pil")[0]
    assert np.array_equal(np.asarray(family.decode(latents)[0]), np.asarray(theirs))


def test_pictures_have_1024_pixels_where_the_autoencoder_names_no_size(pipe, family):
    pipe.vae.register_to_config(sample_size=None)
    assert family.image_size == 1024


def test_a_sibling_draws_as_the_plain_pipeline(pipe, family):
    sibling = family_of(QwenImageImg2ImgPipeline(**pipe.components))
    assert isinstance(sibling, QwenImage)
    ours, theirs = (f.sample(["a cat"], [0], steps=2, guidance=2.0, batch=1)[0] for f in (sibling, family))
    assert np.array_equal(np.asarray(ours), np.asarray(theirs))
