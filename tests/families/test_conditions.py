"""Records of text: rows that are read stand anywhere, and conditions are joined by padding or not at all."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from excise.errors import ModelError
from excise.families.conditions import Condition, grouped, join
from excise.families.text_states import Further, TextStates


def rows(states: TextStates, tokens: str) -> list[int]:
    return states.span(0, tokens)[:, 0].int().tolist()


@pytest.mark.parametrize(
    ("read", "start", "wanted"),
    [
        # The subject is at rows 3 and 4, the end token at 6; every state is its own row's number.
        ("11111111", True, {"from_last": [4, 5, 6, 7], "all_but_start": [1, 2, 3, 4, 5, 6, 7]}),
        ("11111110", True, {"from_last": [4, 5, 6], "all_but_start": [1, 2, 3, 4, 5, 6]}),
        ("00111111", True, {"from_last": [4, 5, 6, 7], "all_but_start": [3, 4, 5, 6, 7]}),
        ("11111001", False, {"from_last": [4, 7], "all_but_start": [0, 1, 2, 3, 4, 7]}),
    ],
)
def test_only_rows_that_are_read_are_selected(read, start, wanted):
    mask = torch.tensor([[mark == "1" for mark in read]])
    one = torch.arange(8.0).view(1, 8, 1)
    states = TextStates.dense(one, torch.tensor([3]), torch.tensor([4]), torch.tensor([6]), read=mask, start=start)
    assert (rows(states, "last"), rows(states, "subject")) == ([4], [3, 4])
    assert rows(states, "all") == mask[0].nonzero()[:, 0].tolist()
    assert {tokens: rows(states, tokens) for tokens in wanted} == wanted
    read = states.reading(states.states)  # as keys and values of joint attention read the same prompts
    assert {tokens: rows(read, tokens) for tokens in wanted} == wanted
    before = [i for i in range(3) if mask[0, i]]
    around = states.gather([0], states.around([0], [0]))[:, 0].int().tolist()
    assert around == [*before, *wanted["from_last"][1:]]


def test_tokens_of_two_text_encoders_are_selected_in_both():
    """Columns 0 to 3 are of one encoder, 4 to 7 of another; the subject is at 2 and at 5."""
    states = TextStates.dense(
        torch.arange(8.0).view(1, 8, 1),
        *(torch.tensor([place]) for place in (2, 2, 3)),
        read=torch.ones(1, 8, dtype=torch.bool),
        further=(Further(4, *(torch.tensor([place]) for place in (5, 5, 6))),),
    )
    wanted = {"last": [2, 5], "subject": [2, 5], "from_last": [2, 3, 5, 6, 7], "all_but_start": list(range(1, 8))}
    assert {tokens: rows(states, tokens) for tokens in wanted} == wanted
    assert states.gather([0], states.around([0], [0]))[:, 0].int().tolist() == [0, 1, 3, 4, 6, 7]
    nowhere = replace(states, further=(Further(4, *[torch.tensor([8])] * 3),))
    assert {tokens: rows(nowhere, tokens) for tokens in ("last", "from_last")} == {"last": [2], "from_last": [2, 3]}


def condition(length: int, masked: bool) -> Condition:
    inputs = {"states": torch.ones(1, length, 2), "pooled": torch.ones(1, 3)}
    if not masked:
        return Condition(inputs)
    return Condition({**inputs, "mask": torch.ones(1, length, dtype=torch.long)}, masks={"states": "mask"})


def test_conditions_of_other_lengths_are_padded_where_a_mask_tells():
    joined = join([condition(2, True), condition(4, True)])
    assert joined.inputs["states"].shape == (2, 4, 2)
    assert joined.inputs["mask"].tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]
    assert joined.inputs["states"][0, 2:].eq(0).all()
    assert joined[[1]].to(torch.device("cpu"), torch.float16).masks == {"states": "mask"}


def test_conditions_without_a_mask_are_joined_by_length():
    parts = [condition(2, False), condition(4, False), condition(2, False)]
    with pytest.raises(ModelError, match="prompts of 2 and of 4 tokens cannot stand in one batch"):
        join(parts)
    assert grouped(parts) == [[0, 2], [1]]
    assert len(join([parts[0], parts[2]])) == 2
