"""What Stable Diffusion 3 does differently: three text encoders, of which the last may be absent."""

from __future__ import annotations

import copy

import pytest
import torch
from tiny_sd3 import build, without_t5
from torch.testing import assert_close

from excise import erase, load
from excise.concepts.concept import Concept
from excise.errors import ModelError
from excise.families import family_of
from excise.families.conditions import Condition
from excise.methods.closed_form.text_problem import encode, token_problem
from excise.methods.closed_form.uce_config import UCEConfig

DOOR, POOLED = "context_embedder", "time_text_embed.text_embedder.linear_1"


@pytest.fixture
def family():
    return family_of(build())


def predict(family, condition, seed: int = 0) -> torch.Tensor:
    latents = torch.randn(len(condition), *family.latent_shape, generator=torch.Generator().manual_seed(seed))
    return family.predict(latents, torch.full((len(condition),), 500.0), condition)


def test_a_word_stands_among_the_tokens_of_both_kinds(family):
    """Rows 0 to 31 are of both CLIPs, rows 32 to 63 of T5, which has no start token."""
    states = family.encode(["a photo of the cat on grass", "cat", "on grass"], ["cat", None, 0])
    assert states.first.tolist() == [5, 1, 0]
    assert states.last.tolist() == [5, 1, 0]
    assert states.end.tolist() == [8, 2, 3]
    assert states.further[0].first.tolist() == states.further[0].last.tolist() == [32 + 4, 32, 32]
    chosen = states.chosen([0], "last")[0].nonzero()[:, 0].tolist()
    assert chosen == [5, 36]
    sizes = {t: len(states.span(0, t)) for t in ("subject", "from_last", "all_but_start", "all")}
    assert sizes == {"subject": 2, "from_last": 27 + 28, "all_but_start": 63, "all": 64}


def test_states_are_those_of_both_clips_side_by_side_then_those_of_t5(family):
    pipe, text = family.pipe, "a photo of a cat"
    ids = pipe.tokenizer(text, padding="max_length", max_length=32, return_tensors="pt").input_ids
    clips = [e(ids, output_hidden_states=True) for e in (pipe.text_encoder, pipe.text_encoder_2)]
    third = pipe.tokenizer_3(text, padding="max_length", max_length=32, return_tensors="pt").input_ids
    states = family.encode([text])
    assert_close(states.states[:, :32, :24], clips[0].hidden_states[-2])
    assert_close(states.states[:, :32, 24:64], clips[1].hidden_states[-2])
    assert not states.states[:, :32, 64:].any()
    assert_close(states.states[:, 32:], pipe.text_encoder_3(third)[0])
    assert_close(states.pooled, torch.cat([c.text_embeds for c in clips], dim=-1))


def test_without_t5_zeros_are_read():
    family = family_of(without_t5())
    states = family.encode(["a photo of a cat", "a cat"], ["cat", "a"])
    assert states.states.shape == (2, 32 + 256, 72)
    assert not states.states[:, 32:].any()
    assert bool(states.read.all())
    assert states.chosen([0], "last")[0].nonzero()[:, 0].tolist() == [5]
    assert int(states.chosen([0], "from_last").nonzero()[:, 1].max()) == 31
    condition = family.condition(["a cat"])
    fewer = Condition({**condition.inputs, "encoder_hidden_states": condition.inputs["encoder_hidden_states"][:, :32]})
    assert (predict(family, condition) - predict(family, fewer)).abs().max() > 1e-2
    assert set(family.text_encoders) == {"text_encoder", "text_encoder_2"}
    with pytest.raises(ModelError, match="loaded without its 'text_encoder_3'"):
        family.module("text_encoder_3.encoder")
    del family.pipe.text_encoder
    family.pipe.text_encoder = None
    with pytest.raises(ModelError, match="loaded without its 'text_encoder'"):
        family.encode(["a cat"])


@pytest.mark.parametrize("pipe", [build, without_t5], ids=["t5", "none"])
def test_a_folder_is_read_for_its_text_alone(pipe, tmp_path):
    family = family_of(pipe())
    family.pipe.save_pretrained(tmp_path)
    part = load(tmp_path, device="cpu", whole=False)
    assert_close(part.encode(["a cat"]).states, family.encode(["a cat"]).states)
    assert set(part.text_encoders) == set(family.text_encoders)


def test_the_picture_s_attention_to_itself_never_counts_as_text(family):
    own = family.maps("self")
    assert {m.path.rpartition("attn2.")[0] for m in own} == {"transformer_blocks.0."}
    assert {m.part for m in own} == {"q", "k", "v", "out"}
    joint = {(m.block, m.part) for m in family.maps("joint")}
    assert {part for block, part in joint if block.endswith(".0")} >= {"q", "k", "v", "add_q", "add_k", "add_v"}
    assert len(joint) == 2 * 8 + 7  # the text leaves the last block unread
    assert [p.path for p in family.projections("kvep")] == [DOOR, POOLED]


def test_tokens_of_a_target_are_matched_with_those_of_its_anchor_encoder_by_encoder(family):
    """A name of two words before one of one word: T5's rows meet T5's although fewer of the CLIPs' are left."""
    concept = Concept(name="fire engine", kind="object", anchor="cat")
    encoded = encode(family, [concept], [], {"object": ("a photo of a {}",)})
    problem = token_problem(encoded, UCEConfig(tokens="from_last"))
    clip, t5 = 32 - 6, 32 - 5
    assert len(problem.targets) == len(problem.anchors) == clip + t5 == len(problem.owner)
    target, anchor = encoded.states.states[[encoded.rows[0], encoded.rows[1]]].double()
    assert torch.equal(problem.targets, torch.cat([target[6:32], target[32 + 5 :]]))
    assert torch.equal(problem.anchors, torch.cat([anchor[5 : 5 + clip], anchor[32 + 4 : 32 + 4 + t5]]))
    assert torch.equal(problem.subjects, target[6:7])
    around = token_problem(encoded, UCEConfig(tokens="context"))
    assert torch.equal(around.targets, torch.cat([target[:5], target[7:32], target[32 : 32 + 4], target[32 + 6 :]]))


def test_a_closed_form_edits_both_doors(family):
    texts = ["a photo of a cat", "a photo of a dog"]
    before = family.denoiser.context_embedder(family.encode(texts).states)
    edit = erase(family, ["cat"], "uce", anchor="dog", vocabulary=None, preserve=["house"])
    assert set(edit.paths) == {DOOR, POOLED}
    with edit.apply(family.pipe):
        after = family.denoiser.context_embedder(family.encode(texts).states)
        for row in (5, 32 + 4):
            assert (after[0, row] - before[1, row]).norm() < 0.7 * (before[0, row] - before[1, row]).norm()
    assert torch.equal(family.denoiser.context_embedder(family.encode(texts).states), before)


def test_the_size_is_that_of_the_transformer(family):
    family.pipe.vae.register_to_config(sample_size=512)
    assert (family.image_size, family.latent_shape) == (32, (4, 16, 16))


def test_an_unknown_norm_of_keys_is_refused():
    pipe = build()
    other = copy.copy(pipe.transformer)
    other.register_to_config(qk_norm="l2")
    pipe.transformer = other
    with pytest.raises(ModelError, match=r"norms its queries and keys by 'l2' \(qk_norm\); expected none"):
        family_of(pipe)
