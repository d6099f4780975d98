"""What PixArt-Sigma does as the families of cross-attention do, behind a T5 that reads prompts in lower case."""

from __future__ import annotations

import pytest
import torch
from tiny_pixart import build
from torch.testing import assert_close

from excise import erase, load
from excise.errors import ModelError
from excise.families import family_of
from excise.families.conditions import Condition


@pytest.fixture
def family():
    return family_of(build())


def predict(family, condition, seed: int = 0) -> torch.Tensor:
    latents = torch.randn(len(condition), *family.latent_shape, generator=torch.Generator().manual_seed(seed))
    return family.predict(latents, torch.full((len(condition),), 500), condition)


def test_keys_and_values_of_every_block_read_the_prompt_alone(family):
    paths = [f"transformer_blocks.{i}.attn2.to_{part}" for i in range(2) for part in "kv"]
    assert [p.path for p in family.projections()] == paths
    assert {m.path.split(".")[2] for m in family.maps("self")} == {"attn1"}
    assert {m.part for m in family.maps("cross")} == {"q", "k", "v", "out"}
    assert family.prediction == "epsilon"


def test_pads_are_not_read(family):
    states = family.encode(["a photo of the cat on grass", "cat", "on grass"], ["cat", None, 0])
    assert states.first.tolist() == [4, 0, 0]
    assert states.last.tolist() == [4, 0, 0]
    assert states.end.tolist() == [7, 1, 2]
    sizes = {t: len(states.span(0, t)) for t in ("last", "subject", "from_last", "all_but_start", "all")}
    assert sizes == {"last": 1, "subject": 1, "from_last": 4, "all_but_start": 8, "all": 8}
    condition = family.condition(["a cat"])
    rows = condition.inputs["encoder_hidden_states"].clone()
    rows[:, 3:] = 1.0
    other = Condition({**condition.inputs, "encoder_hidden_states": rows}, condition.masks)
    assert torch.equal(predict(family, other), predict(family, condition))


def test_prompts_are_read_in_lower_case_and_without_spaces_around_them(family):
    plain = family.encode(["a photo of a cat on grass"], ["cat"])
    written = family.encode(["  A Photo of a CAT on grass "], ["CAT"])
    assert torch.equal(plain.states, written.states)
    assert (plain.first, plain.last, plain.end) == (written.first, written.last, written.end)
    # The empty subject before " on grass", eighteen characters in.
    assert family.encode(["  A Photo of a CAT on grass "], [18]).last == plain.last
    assert family.encode(["  on grass"], [2]).last == 0
    assert torch.equal(
        family.condition(["  A Photo "]).inputs["encoder_hidden_states"],
        family.condition(["a photo"]).inputs["encoder_hidden_states"],
    )


def test_half_of_the_output_is_ignored(family):
    condition = family.condition(["a cat"])
    before = predict(family, condition)
    assert before.shape[1:] == family.latent_shape == (4, 16, 16)
    last = family.denoiser.proj_out
    with torch.no_grad():
        last.weight.view(2, 2, 8, -1)[:, :, 4:] += 1.0  # rows are of a patch's places, channel by channel
    assert torch.equal(predict(family, condition), before)


def test_an_edit_changes_every_block(family):
    """With W' x = W a for a word's row x and W' y = W y for the others, the model reads the anchor's row."""
    texts = ["a photo of a cat", "a photo of a dog"]
    edit = erase(family, ["cat"], "uce", anchor="dog", vocabulary=None, preserve=["house"])
    assert edit.paths == [p.path for p in family.projections()]
    states = family.encode(texts).states
    value = family.module("transformer_blocks.1.attn2.to_v")
    before = value(states)
    with edit.apply(family.pipe):
        after = value(states)
        assert (after[0, 4] - before[1, 4]).norm() < 0.7 * (before[0, 4] - before[1, 4]).norm()
    assert torch.equal(value(states), before)


def test_a_folder_is_read_for_its_text_alone(family, tmp_path):
    family.pipe.save_pretrained(tmp_path)
    part = load(tmp_path, device="cpu", whole=False)
    assert_close(part.encode(["a cat"]).states, family.encode(["a cat"]).states)
    assert set(part.text_encoder_weights) == set(family.text_encoder_weights)
    assert {name.split(".")[0] for name in part.text_encoder_weights} == {"text_encoder", "caption_projection"}


def test_alpha_is_another_family():
    with pytest.raises(
        ModelError, match=r"\(use_additional_conditions\), as PixArt-Alpha does .*expected one of PixArt"
    ):
        family_of(build(conditions=True))
