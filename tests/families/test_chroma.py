"""What Chroma does differently: a mask that masks nothing, no pooled prompt, and a mask lost in recomputation."""

from __future__ import annotations

import pytest
import torch
from tiny_chroma import build
from torch.testing import assert_close

from excise import erase
from excise.families import family_of
from excise.families.conditions import Condition

DOOR = "context_embedder"


@pytest.fixture
def family():
    return family_of(build())


def predict(family, condition, seed: int = 0) -> torch.Tensor:
    latents = torch.randn(len(condition), *family.latent_shape, generator=torch.Generator().manual_seed(seed))
    return family.predict(latents, torch.full((len(condition),), 500.0), condition)


def test_tokens_without_a_start_token(family):
    states = family.encode(["a photo of the cat on grass", "cat", "on grass"], ["cat", None, 0])
    assert states.first.tolist() == [4, 0, 0]
    assert states.last.tolist() == [4, 0, 0]
    assert states.end.tolist() == [7, 1, 2]
    sizes = {t: len(states.span(0, t)) for t in ("last", "subject", "from_last", "all_but_start", "all")}
    assert sizes == {"last": 1, "subject": 1, "from_last": 28, "all_but_start": 32, "all": 32}
    assert states.pooled is None


def test_the_mask_adds_one_and_hides_nothing(family):
    """It is one for a prompt, its end token and one pad; further pads are read all the same."""
    condition = family.condition(["a cat"])
    added = condition.inputs["attention_mask"]
    assert added.tolist() == [[1.0] * 4 + [0.0] * 28]
    assert added.dtype == torch.float32
    before, states = predict(family, condition), condition.inputs["encoder_hidden_states"].clone()
    states[:, 20:] = torch.randn(1, 12, 32, generator=torch.Generator().manual_seed(1))
    assert (
        predict(family, Condition({**condition.inputs, "encoder_hidden_states": states})) - before
    ).abs().max() > 0.1
    for other in (added.bool().float() * 0, torch.ones_like(added)):
        moved = predict(family, Condition({**condition.inputs, "attention_mask": other})) - before
        assert moved.abs().max() > 1e-4
    assert bool(family.inputs([DOOR], ["a cat"])[DOOR].read.all())


def test_recomputation_keeps_the_mask(family):
    """Gradient checkpointing of diffusers leaves it out in single blocks, so that output and gradients would change."""

    def traced() -> tuple[torch.Tensor, torch.Tensor]:
        weight = family.parameter("transformer_blocks.0.attn.to_q").requires_grad_(True)
        output = predict(family, family.condition(["a cat"]))
        gradient = torch.autograd.grad(output.square().mean(), weight)[0]
        return output.detach(), gradient

    plain = traced()
    family.denoiser.enable_gradient_checkpointing()
    function = family.denoiser._gradient_checkpointing_func
    recomputed = traced()
    assert family.denoiser._gradient_checkpointing_func is function
    assert_close(recomputed[0], plain[0], rtol=0, atol=1e-6)
    assert_close(recomputed[1], plain[1], rtol=1e-4, atol=1e-6)


def test_attention_is_joint_in_both_kinds_of_blocks(family):
    joint = family.maps("joint")
    assert joint == family.maps("attention")
    parts = {(m.block.split(".")[0], m.part) for m in joint}
    double = {("transformer_blocks", p) for p in ("q", "k", "v", "out", "add_q", "add_k", "add_v", "add_out")}
    assert parts == double | {("single_transformer_blocks", p) for p in "qkv"}


def test_a_closed_form_edits_the_one_door(family):
    texts = ["a photo of a cat", "a photo of a dog"]
    before = family.denoiser.context_embedder(family.encode(texts).states)
    edit = erase(family, ["cat"], "uce", anchor="dog", vocabulary=None, preserve=["house"])
    assert edit.paths == [DOOR]
    with edit.apply(family.pipe):
        after = family.denoiser.context_embedder(family.encode(texts).states)
        assert (after[0, 4] - before[1, 4]).norm() < 0.7 * (before[0, 4] - before[1, 4]).norm()
