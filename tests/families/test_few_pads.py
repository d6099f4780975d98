"""Padding that is read: a few tokens of it stand for all, in choices of tokens and in what is encoded."""

from __future__ import annotations

import warnings

import pytest
import torch
from conftest import tiny_pipe
from dits import CASES, FIRST
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from excise import erase
from excise.concepts.concept import Concept
from excise.errors import ExciseWarning
from excise.families import FAMILIES, family_of
from excise.families.text_cache import encode_known
from excise.families.text_states import FEW, Further, standing
from excise.families.usual import told_behind, usual_for, usual_of
from excise.methods import METHODS
from excise.methods.closed_form.text_problem import encode, token_problem
from excise.support.settings import Usual, configure

ANEW = ("krea2", "pixart")  # families that encode each time
PROMPTS, SUBJECTS = ["a photo of the cat on grass", "cat", ""], ["cat", "cat", None]


def evenly(start: int, stop: int) -> set[int]:
    """At most three columns from `start` to before `stop`: the first, the last and one between them."""
    return {start, start + (stop - 1 - start) // 2, stop - 1} if stop > start else set()


@given(st.integers(1, 12), st.integers(0, 12), st.data())
def test_all_words_stand_and_the_padding_around_them_is_thinned(first_width, second_width, data):
    length, parts, expected = first_width + second_width, [], set()
    for begin, stop in ((0, first_width), (first_width, length)):
        if begin == stop:
            continue
        front = data.draw(st.integers(begin, stop - 1))
        end = data.draw(st.integers(front, stop - 1))
        parts.append(Further(begin, *(torch.tensor([end]) for _ in range(3)), torch.tensor([front])))
        expected |= set(range(front, end + 1)) | evenly(begin, front) | evenly(end + 1, stop)
    assert set(torch.nonzero(standing(parts, length)[0])[:, 0].tolist()) == expected


def test_each_prompt_has_its_own_padding():
    ends = torch.tensor([0, 3, 30])
    mask = standing([Further(0, ends, ends, ends)], 31)
    assert mask.sum(dim=1).tolist() == [1 + FEW, 4 + FEW, 31]
    assert torch.nonzero(mask[0])[:, 0].tolist() == [0, 1, 15, 30]


@pytest.mark.parametrize("name", FIRST.values(), ids=str)
def test_what_is_encoded_with_few_pads_is_a_part_of_the_whole(name):
    family = family_of(CASES[name].build())
    whole = family.encode(PROMPTS, SUBJECTS)
    few = family.encode(PROMPTS, SUBJECTS, ["few"] * len(PROMPTS))
    assert len(few.rows) <= len(whole.rows)
    for tokens in ("last", "from_last", "all_but_start", "all"):
        chosen = whole.chosen(range(3), tokens, "few")
        assert not (chosen & ~whole.chosen(range(3), tokens)).any()
        assert torch.equal(few.chosen(range(3), tokens, "few"), chosen)
        assert_close(few.gather(range(3), chosen), whole.gather(range(3), chosen))
    around = whole.around([0], [0], "few")
    assert_close(few.gather([0], around), whole.gather([0], around))
    mixed = family.encode(PROMPTS, SUBJECTS, ["few", "last", "all"])
    assert_close(mixed.span(0, "from_last", "few"), whole.span(0, "from_last", "few"))
    assert_close(mixed.span(1, "last"), whole.span(1, "last"))
    assert_close(mixed.span(2, "all"), whole.span(2, "all"))


@pytest.mark.parametrize("name", [name for family, name in FIRST.items() if family not in ANEW], ids=str)
def test_known_states_are_recalled_and_no_prompt_is_encoded_twice(name, tmp_path, monkeypatch):
    family, asked = family_of(CASES[name].build()), ["few", "last", "all"]
    whole = family.encode(PROMPTS, SUBJECTS, asked)
    first = encode_known(family, PROMPTS, SUBJECTS, tmp_path, asked)
    more = encode_known(family, [*PROMPTS, "a dog"], [*SUBJECTS, "dog"], tmp_path, [*asked, "few"])
    monkeypatch.setattr(type(family), "_condition", lambda *_: pytest.fail("encoded again"))
    monkeypatch.setattr(type(family), "_token_states", lambda *_: pytest.fail("encoded again"), raising=False)
    again = encode_known(family, PROMPTS, SUBJECTS, tmp_path, asked)
    for states in (first, more, again):
        assert_close(states.span(0, "from_last", "few"), whole.span(0, "from_last", "few"))
        assert_close(states.span(1, "last"), whole.span(1, "last"))
        assert_close(states.span(2, "all"), whole.span(2, "all"))
        if whole.pooled is not None:
            assert_close(states.pooled[:3], whole.pooled)


@pytest.mark.parametrize("name", FIRST.values(), ids=str)
def test_a_problem_is_the_same_however_much_was_encoded(name):
    family, config = family_of(CASES[name].build()), METHODS.load("uce").Config(pads="few")
    request = (family, [Concept("cat", "object", "dog")], ["a tree"])
    one, two = (token_problem(encode(*request, reach=(how, how)), config) for how in ("few", "all"))
    for rows in ("targets", "anchors", "retain", "null"):
        assert_close(getattr(one, rows), getattr(two, rows))
    assert len(one.null) <= len(token_problem(encode(*request), METHODS.load("uce").Config()).null)


@pytest.mark.parametrize("method", ["uce", "speed", "scapre", "rece"])
def test_where_padding_tells_the_subject_the_presets_of_kinds_reach_it(method):
    config = METHODS.load(method).Config
    own, behind = (configure(config, method, {}, "object", Usual(behind=told)) for told in (False, True))
    assert own.pads == "all"
    assert (behind.pads, behind.tokens, behind.retain_tokens) == ("few", "from_last", "all_but_start")
    asked = {"tokens": "last", "pads": "all"}
    assert configure(config, method, asked, "object", Usual(behind=True)).tokens == "last"
    for settings in ({"preset": "object"}, {"preset": "official"}, {"preset": "default"}):
        assert configure(config, method, settings, "object", Usual(behind=True)) == configure(
            config, method, settings, "object"
        )
    canvas = Usual(("canvas-flux", "canvas"), behind=True)
    assert configure(config, method, {}, "object", canvas).pads == "all"


def test_families_whose_padding_or_turns_tell_a_subject_and_a_folder_says_so(tokenizer, tmp_path):
    told = {name for name, record in FAMILIES.records().items() if told_behind(record.provides)}
    assert told == {"flux", "flux2", "chroma", "sd3", "zimage", "qwenimage", "krea2", "lumina2", "kolors"}
    pipe = CASES[FIRST["flux"]].build()
    pipe.save_pretrained(tmp_path / "flux")
    assert usual_of(str(tmp_path / "flux")) == usual_for(family_of(pipe)) == Usual(behind=True)
    assert usual_for(family_of(tiny_pipe(tokenizer))) == usual_of("a/hub-id") == Usual()
    with warnings.catch_warnings():
        warnings.simplefilter("error", ExciseWarning)
        edit = erase(pipe, ["cat"], "uce", kind="object", preserve=["dog"], vocabulary=None)
    assert (edit.record.settings["tokens"], edit.record.settings["pads"]) == ("from_last", "few")
