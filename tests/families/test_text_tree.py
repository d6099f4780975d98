"""Prompts encoded as a tree have the states that the pipeline gives them, and each beginning is run once."""

from __future__ import annotations

import copy
import random

import pytest
import torch
from torch.testing import assert_close

from excise.errors import ModelError
from excise.families.load import family_of
from excise.families.text_known import KnownStates
from excise.families.text_tree import grow, passes
from tests.conftest import tiny_sana

WORDS = ["a", "photo", "of", "cat", "dog", "house", "neon", "style", "tree", "in", "fire", "engine", "car"]


def prompts(count: int, seed: int) -> tuple[list[str], list[str], list[str]]:
    """Random prompts, the last word of each as its subject, and how far it is to be encoded."""
    draw = random.Random(seed)
    texts = [" ".join(draw.choices(WORDS[: draw.randint(2, len(WORDS))], k=draw.randint(1, 6))) for _ in range(count)]
    return texts, [text.split()[-1] for text in texts], [draw.choice(["last", "end", "all"]) for _ in texts]


def wanted(family, texts):
    """What the pipeline hands to its denoiser, through the maps that stand before attention."""
    condition = family.condition(texts)
    states = condition.inputs["encoder_hidden_states"]
    if family.name == "sana":
        states = family.denoiser.caption_norm(family.denoiser.caption_projection(states))
    return states, condition.inputs.get("text_embeds")


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("masks", [True, False], ids=["shared rows", "a row each"])
def test_states_are_those_of_the_pipeline(any_pipe, seed, masks, monkeypatch):
    family = family_of(any_pipe)
    if not masks:  # as with attention that takes no mask of pairs
        monkeypatch.setattr("excise.families.pipeline.takes_masks", lambda encoder: False)
    texts, subjects, until = prompts(24, seed)
    states, pooled = wanted(family, texts)
    whole = family.encode(texts, subjects)
    width = whole.at.shape[1]
    assert_close(whole.states, states[:, :width] * whole.read[..., None], rtol=1e-5, atol=1e-5)
    if pooled is not None:
        assert_close(whole.pooled, pooled, rtol=1e-5, atol=1e-5)
    short = family.encode(texts, subjects, until)
    assert torch.equal(short.last, whole.last)
    assert torch.equal(short.end, whole.end)
    for i, reach in enumerate(until):
        known = (short.at[i] >= 0).nonzero()[:, 0]
        at_least = {"last": short.last[i], "end": short.end[i], "all": whole.read[i].nonzero().max()}[reach]
        assert known.tolist() == list(range(int(known.max()) + 1))
        assert int(known.max()) == int(at_least)
        assert_close(short.rows[short.at[i, known]], states[i, known], rtol=1e-5, atol=1e-5)
    ends = family.encode(texts, subjects, ["end"] * len(texts))
    if pooled is not None:
        assert_close(ends.pooled, pooled, rtol=1e-5, atol=1e-5)


def test_an_instruction_before_every_prompt_is_run_once_a_row(gemma_tokenizer):
    roomy = copy.deepcopy(gemma_tokenizer)
    roomy.model_max_length = 10_000
    family = family_of(tiny_sana(roomy))
    assert family.instruction is not None
    texts, subjects, _ = prompts(12, 5)
    states, _ = wanted(family, texts)
    found = family.encode(texts, subjects)
    assert_close(found.states, states[:, : found.at.shape[1]] * found.read[..., None], rtol=1e-4, atol=1e-5)
    hidden = len(family.pipe.tokenizer(family._before).input_ids)
    assert len(found.rows) < 2 * hidden + 200


def test_each_beginning_stands_once_in_a_row_and_nothing_behind_the_last_token():
    ids = torch.tensor([[9, 1, 2, 3], [9, 1, 2, 4], [9, 1, 5, 0], [9, 1, 2, 3]])[..., None]
    forest = grow(ids, torch.tensor([4, 4, 3, 4]), capacity=16)
    assert len(forest) == 6  # 9, 1, 2, 3, 4, 5
    assert forest.at[0].tolist() == forest.at[3].tolist()
    assert forest.at[2, 3] == -1
    for i, length in enumerate([4, 4, 3, 4]):
        assert torch.equal(forest.ids[forest.at[i, :length], 0], ids[i, :length, 0])
        assert forest.depth[forest.at[i, :length]].tolist() == list(range(length))
    ((tokens, (_, positions, mask), _),) = passes(forest, share=True)
    assert mask[0, 0].sum(1).tolist() == (positions[0] + 1).tolist()  # itself and what stands before it
    assert len(tokens) == 6


@pytest.mark.parametrize("capacity", [0, 4, 5, 9, 64])
def test_rows_hold_whole_prompts_and_no_more_than_fits(capacity):
    generator = torch.Generator().manual_seed(capacity)
    ids = torch.randint(0, 3, (40, 4, 2), generator=generator)
    lengths = torch.randint(1, 5, (40,), generator=generator)
    forest = grow(ids, lengths, capacity)
    assert int(forest.slot.max()) < max(4, capacity)
    for i, length in enumerate(lengths.tolist()):
        own = forest.path[i, :length]
        assert torch.equal(forest.ids[own], ids[i, :length])
        assert len(set(forest.row[own].tolist())) == 1
        assert torch.equal(forest.ids[forest.at[i, :length]], ids[i, :length])
    if capacity == 64:  # all in one row: each distinct beginning once
        counts = lengths.tolist()
        beginnings = {
            tuple(map(tuple, row[:k])) for row, n in zip(ids.tolist(), counts, strict=True) for k in range(1, n + 1)
        }
        rows = int(forest.row.max()) + 1
        assert len(forest) <= len(beginnings) + 4 * (rows - 1)


def test_what_is_known_is_not_run_again_and_gives_the_same_states(any_pipe, tmp_path, monkeypatch):
    family = family_of(any_pipe)
    texts, subjects, until = prompts(16, 7)
    known = KnownStates(tmp_path)
    first = family.encode(texts, subjects, until, known)
    known.save()
    plain = family.encode(texts, subjects, until)
    monkeypatch.setattr(type(family), "_token_states", None)  # nothing may be run
    again = family.encode(texts, subjects, until, KnownStates(tmp_path))
    for other in (plain, again):
        for i in range(len(texts)):
            rows = (first.at[i] >= 0).nonzero()[:, 0]
            assert torch.equal(first.rows[first.at[i, rows]], other.rows[other.at[i, rows]])
    assert len(again.rows) == len(first.rows)


def test_states_that_were_not_asked_for_cannot_be_read(any_pipe):
    family = family_of(any_pipe)
    states = family.encode(["a cat on a table"], ["cat"], ["last"])
    assert len(states.span(0, "last")) == 1
    with pytest.raises(ModelError, match="not encoded"):
        states.span(0, "from_last")
    with pytest.raises(ModelError, match="not encoded"):
        states.states  # noqa: B018
