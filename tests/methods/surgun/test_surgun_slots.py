"""Pictures of a target and of its distractors: drawn, judged, put together into batches."""

from __future__ import annotations

from contextlib import ExitStack
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import tiny_pipe
from dits import CASES
from surgun_help import SMALL, Half, slots
from torch.testing import assert_close

from excise import erase
from excise.concepts.candidates import CANDIDATES
from excise.concepts.concept import Concept
from excise.errors import ConceptError, ExciseWarning, SettingError
from excise.families import family_of
from excise.families.noising import noising
from excise.methods.base import Context
from excise.methods.trained.surgun.competition import Competition, Retained
from excise.methods.trained.surgun.distractors import choose
from excise.methods.trained.surgun.slots import draw_slots
from excise.training.pictures import Sampling

NAMED = {name: value for name, value in SMALL.items() if name != "count"}  # with distractors


@pytest.fixture
def family(tokenizer):
    return family_of(tiny_pipe(tokenizer))


def test_a_slot_holds_target_and_distractors_under_the_targets_prompt(family):
    found = slots(family)
    assert found.prompts == ["a cat", "kitty in neon", "a cat", "kitty in neon"]
    assert found.target.shape == (4, 4, 8, 8)
    assert found.distractors.shape == (2, 4, 4, 8, 8)
    own = family.condition(["a dog", "dog in neon", "a dog", "dog in neon"]).inputs["encoder_hidden_states"]
    assert_close(found.own[0].inputs["encoder_hidden_states"], own)
    again = slots(family)
    assert torch.equal(again.distractors, found.distractors)
    assert not torch.equal(slots(family, seed=1).target, found.target)


def test_pictures_that_the_scorer_does_not_accept_are_drawn_again_and_then_left_out(family):
    found = slots(family, scorer=Half(lambda name, i: name != "car" or i == 8))
    assert found.filled.tolist()[:2] == [[True] * 4] * 2
    assert found.filled[2].sum() == 1
    assert found.seen == {"cat": [4, 4], "dog": [4, 4], "car": [1, 4 + 3 + 3]}
    with pytest.raises(ConceptError, match="half sees 'cat' in 0 of 4 pictures that the untouched model draws"):
        slots(family, scorer=Half(lambda name, i: name != "cat"))
    with pytest.raises(ConceptError, match="hardly sees the distractors dog, car"):
        slots(family, scorer=Half(lambda name, i: name == "cat"))


def test_chosen_distractors_that_the_judge_hardly_sees_are_replaced(tokenizer):
    def erased(blind: str = "", **more):
        context = Context(lambda images, names: [n != blind for n in names])
        knobs = {**(NAMED if "distractors" in more else SMALL), "confine": False, "blocks": "all", **more}
        found = erase(tiny_pipe(tokenizer), ["cat"], "surgun", preserve=["dog"], context=context, **knobs)
        return found.record.measured["distractors"]["cat"]

    first, other = erased()
    with pytest.warns(
        ExciseWarning,
        match=f"hardly sees the distractors {first} in pictures that the model draws of them; others are chosen",
    ):
        second = erased(first)
    assert first not in second
    assert len(second) == 2
    with pytest.raises(ConceptError, match=f"hardly sees the distractors {first} in pictures"):
        erased(first, distractors=f"{first},{other}")


@pytest.mark.parametrize("caption", ["target", "own"])
def test_a_batch_is_m_targets_then_their_distractors(family, caption):
    found = slots(family, scorer=Half(lambda name, i: name != "car" or i == 8))
    competition = Competition(found, family, noising(family.pipe.scheduler), 6, caption)
    clean, noise, t, condition = competition.batch(torch.Generator().manual_seed(0))
    assert clean.shape == (12, 4, 8, 8)
    assert torch.equal(noise[:6], noise[6:])
    assert torch.equal(t[:6], t[6:])
    states = condition.inputs["encoder_hidden_states"]
    assert torch.equal(states[:6], states[6:]) == (caption == "target")
    by_latent = {row.sum().item(): (k, s) for k in range(2) for s, row in enumerate(found.distractors[k])}
    drawn = [by_latent[row.sum().item()] for row in clean[6:]]
    assert {k for k, _ in drawn} == {0, 1}  # evenly over distractors, from filled slots alone
    assert {s for k, s in drawn if k == 1} == {int(found.filled[2].nonzero())}


def test_drift_is_measured_at_what_is_kept_and_at_the_distractors(any_pipe, monkeypatch):
    family = family_of(any_pipe)
    rows = torch.arange(1.0, 4)[:, None, None, None].expand(3, *family.latent_shape)
    slots = SimpleNamespace(distractors=-rows[None])
    condition = family.condition(["a dog", "a tree", "a sea", "a car"])
    plan = noising(family.pipe.scheduler)
    kept = Retained(condition, rows)
    seen = []
    monkeypatch.setattr(type(plan), "add", lambda self, clean, noise, t: clean)
    predict = lambda z, t, c: seen.append((z, c)) or z  # noqa: E731
    spied = SimpleNamespace(predict=predict, latent_shape=family.latent_shape)
    adapter = SimpleNamespace(teacher=ExitStack)
    drift = Competition(slots, spied, plan, 8, retained=kept).drift(torch.Generator().manual_seed(0), adapter)
    assert drift == 0
    z, c = seen[0]
    assert bool((z[1::2] < 0).all())  # of distractors
    assert bool((z[::2] > 0).all())
    for latent, i in zip(z[::2], range(0, 8, 2), strict=True):  # each under the prompt it was drawn of
        own = condition[[int(latent.flatten()[0]) - 1]]
        assert all(torch.equal(v, c[[i]].inputs[k]) for k, v in own.inputs.items())


@pytest.mark.parametrize(("precision", "half"), [("no", False), ("bf16", True), ("fp16", False)])
def test_pictures_are_half_precise_in_bfloat16_alone(family, monkeypatch, precision, half):
    seen = []
    real = type(family).sample
    monkeypatch.setattr(
        type(family), "sample", lambda *a, **k: (seen.append(torch.is_autocast_enabled("cpu")), real(*a, **k))[1]
    )
    assert len(Sampling(2, 2.0, precision=precision).draw(family, ["a cat"], [0])) == 1
    assert seen == [half]


def test_drawing_by_conditions_is_drawing_by_their_prompts_however_many_at_once(any_pipe):
    family = family_of(any_pipe)
    prompts, seeds = ["a cat", "a dog", "a tree"], [1, 2, 3]
    drawn = Sampling(2, 2.0, batch=3).draw(family, prompts, seeds)
    rendered = Sampling(2, 2.0, batch=2).render(family, family.condition(prompts), seeds)
    for one, two in zip(drawn, rendered, strict=True):
        assert_close(np.asarray(one).astype(int), np.asarray(two).astype(int), atol=1, rtol=0)


@pytest.mark.parametrize("name", CASES)
def test_distractors_are_found_whatever_stands_around_a_prompt(name):
    """Behind an instruction, and before the same end of a turn, the states of all prompts are much alike."""
    family = family_of(CASES[name].build())
    chosen = choose(family, ["cat"], ["dog", "tree", "car", "castle", "table", "grass"], 2)
    assert len(set(chosen)) == 2


def test_what_cannot_compete_is_refused(tokenizer):
    pipe = tiny_pipe(tokenizer)
    with pytest.raises(ConceptError, match="0 distractors for 'cat' are left of 1 candidates"):
        erase(pipe, ["cat"], "surgun", preserve=["dog"], distractors="cat", **NAMED)
    with pytest.raises(SettingError, match="no attention block 'nowhere'"):
        erase(pipe, ["cat"], "surgun", preserve=["dog"], confine=False, blocks="nowhere", **SMALL)
    with pytest.raises(SettingError, match="blocks was 'random:x'; expected a number"):
        erase(pipe, ["cat"], "surgun", preserve=["dog"], confine=False, blocks="random:x", **SMALL)


def test_distractors_are_of_the_targets_own_level(any_pipe):
    both = [Concept("cat"), Concept("ukiyo-e print", "style")]
    edit = erase(any_pipe, both, "surgun", preserve=["ox"], confine=False, blocks="all", **{**SMALL, "steps": 1})
    found = edit.record.measured["distractors"]
    assert set(found["cat"]) <= set(CANDIDATES["object"])
    assert set(found["ukiyo-e print"]) <= set(CANDIDATES["style"])


def test_what_was_erased_before_does_not_compete(any_pipe):
    def distractors() -> list[str]:
        edit = erase(any_pipe, ["cat"], "surgun", preserve=["ox"], confine=False, blocks="all", **{**SMALL, "steps": 1})
        return edit.record.measured["distractors"]["cat"]

    gone = distractors()
    with erase(any_pipe, gone, "uce").apply(any_pipe):
        assert not set(gone) & set(distractors())
    assert distractors() == gone


def test_pictures_stand_in_all_of_the_targets_prompts(make):
    """Where there are more prompts than pictures, evenly over them; the first ones alone would leave contexts out."""
    family = family_of(make("sd"))
    templates = [f"{{}} number {i}" for i in range(12)]
    slots = draw_slots(family, ["cat"], ["dog"], templates, 4, Sampling(2, 1.0), scorer=None, seed=0)
    assert slots.prompts == [f"cat number {i}" for i in (0, 3, 6, 9)]
    slots = draw_slots(family, ["cat"], ["dog"], templates[:2], 5, Sampling(2, 1.0), scorer=None, seed=0)
    assert slots.prompts == [f"cat number {i % 2}" for i in range(5)]
