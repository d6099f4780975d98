"""What Krea 2 does alone: layers fused over tokens, padding inside a turn, guidance that is off at zero."""

from __future__ import annotations

import math

import pytest
import torch
from diffusers import Krea2Transformer2DModel
from tiny_krea2 import build
from torch.testing import assert_close

from excise import load
from excise.errors import ModelError
from excise.families import family_of

PROMPTS, SUBJECTS = ["a photo of a cat on grass", "the dog"], ["cat", "dog"]
DOOR = "txt_in.linear_1"


@pytest.fixture
def pipe():
    return build()


@pytest.fixture
def family(pipe):
    return family_of(pipe)


def test_padding_stands_between_a_prompt_and_what_follows_it(family):
    states = family.encode([*PROMPTS, "on grass"], [*SUBJECTS, 0])
    assert states.first.tolist() == [4, 1, 0]
    assert states.last.tolist() == [4, 1, 0]
    assert states.end.tolist() == [59, 59, 59]
    for i, length in enumerate((7, 2, 2)):
        assert states.read[i].nonzero()[:, 0].tolist() == [*range(length), *range(59, 64)]
    sizes = {t: len(states.span(0, t)) for t in ("last", "from_last", "all_but_start", "all")}
    assert sizes == {"last": 1, "from_last": 8, "all_but_start": 12, "all": 12}
    assert [family.last_token(p, s) for p, s in zip(PROMPTS, SUBJECTS, strict=True)] == [4, 1]


def test_every_row_changes_with_every_word(family):
    cat, dog = family.encode(["a photo of a cat", "a photo of a dog"]).states
    assert (cat - dog)[0].abs().max() > 1e-3  # the first token, before the word
    encoder = family.condition(["a photo of a cat", "a photo of a dog"]).inputs["encoder_hidden_states"]
    assert torch.equal(encoder[0, 0], encoder[1, 0])
    weights = family.text_encoder_weights
    assert {"text_fusion.projector.weight", "txt_in.norm.weight"} <= set(weights)
    assert not any(name.startswith(DOOR) for name in weights)


def test_the_door_alone_decides_what_the_picture_hears(family):
    """With the anchor's rows at the door, the prediction is that for the anchor."""
    latents = torch.randn(1, *family.latent_shape, generator=torch.Generator().manual_seed(0))
    cat, dog = family.condition(["a cat"]), family.condition(["a dog"])
    rows = family.inputs([DOOR], ["a dog"])[DOOR].rows
    wanted = family.predict(latents, torch.tensor([500.0]), dog)
    hook = family.module(DOOR).register_forward_pre_hook(lambda _, args: (rows,))
    swapped = family.predict(latents, torch.tensor([500.0]), cat)
    hook.remove()
    assert_close(swapped, wanted, rtol=1e-5, atol=1e-5)
    assert (family.predict(latents, torch.tensor([500.0]), cat) - wanted).abs().max() > 1e-3


def test_rows_of_the_blocks_over_layers_are_told_prompt_by_prompt(family):
    path = "text_fusion.layerwise_blocks.0.attn.to_v"
    got = family.inputs([path], PROMPTS)[path]
    states = family.condition(PROMPTS).inputs["encoder_hidden_states"]
    normed = family.module("text_fusion.layerwise_blocks.0.norm1")(states.flatten(1, 2))
    assert_close(got.rows, normed, rtol=1e-5, atol=1e-5)
    assert got.read.sum(dim=1).tolist() == [12 * 3, 7 * 3]


def test_no_guidance_is_a_scale_of_zero(family):
    calls = []
    hook = family.denoiser.register_forward_hook(lambda *_: calls.append(1))
    for guidance in (0.0, 1.0, 1.5):
        family.sample(["a cat"], [0], steps=1, guidance=guidance, batch=1)
    hook.remove()
    assert len(calls) == 1 + 1 + 2


def test_a_distilled_model_has_a_shift_of_its_own(family):
    assert family.noising.shift == pytest.approx(math.exp(0.5 + 0.65 * (16 - 256) / (4096 - 256)))
    assert family_of(build(distilled=True)).noising.shift == pytest.approx(math.exp(1.15))


def test_other_layers_patches_and_tokenizers_are_refused(pipe):
    with pytest.raises(ModelError, match="takes 2 layers of the text encoder .* fuses 3; load the model_index.json"):
        family_of(build(layers=(1, 2)))
    pipe.patch_size = 4
    with pytest.raises(ModelError, match="packs patches of 4 x 4; expected 2 x 2"):
        family_of(pipe)
    pipe.prompt_template_encode_prefix += "x"
    with pytest.raises(ModelError, match="makes 35 tokens of the instruction"):
        family_of(pipe)


def test_norms_stay_in_single_precision(pipe, tmp_path):
    """Whether a model is loaded whole or for its text alone, its weights are in the precision that diffusers gives."""
    pipe.save_pretrained(tmp_path)
    stock = Krea2Transformer2DModel.from_pretrained(tmp_path / "transformer", torch_dtype=torch.bfloat16)
    expected = {name: weight.dtype for name, weight in stock.named_parameters()}
    assert set(expected.values()) == {torch.float32, torch.bfloat16}
    for whole in (True, False):
        denoiser = load(tmp_path, dtype="bfloat16", device="cpu", whole=whole).denoiser
        assert {name: weight.dtype for name, weight in denoiser.named_parameters()} == expected, whole
