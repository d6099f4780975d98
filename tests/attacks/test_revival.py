"""Revival: nothing of the target is shown, what is trained moves pictures, and the model stays as it was."""

from __future__ import annotations

import hashlib
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from attack_runs import arena_of, run
from conftest import WAYS, tiny_pipe

from excise import Concept, erase
from excise.attacks.accounting import worst
from excise.attacks.base import BACKWARD_COST, AttackError, Guides
from excise.attacks.panel import shown_to_any
from excise.attacks.plan import load_attack, planned
from excise.attacks.revival import Revival, RevivalConfig, other_prompts
from excise.concepts.concept import normalise_name

NAMES = ["revival, LoRA", "revival, all weights"]


def sees_some(images, names):
    """An arbitrary judge that says the same of the same picture, yes of every fourth."""
    return [hashlib.sha256(np.asarray(i).tobytes()).digest()[0] % 4 == 0 for i in images]


@pytest.mark.parametrize("kind", WAYS)  # relearning, whose training it is, runs on every family
def test_revival_runs_however_text_reaches_a_picture_within_its_budget(make, kind):
    pipe = make(kind)
    edit = erase(pipe, ["cat"], "uce", preserve=["dog"])
    found = run(pipe, edits=[edit], names=NAMES, settings={"steps": 2, "batch": 2, "drawings": 3}, judge=sees_some)
    assert [r.name for r in found.results] == NAMES
    for result in found.results:
        assert result.model is not None, result.why
        assert result.model.drawn == 4
        assert result.model.passes == BACKWARD_COST * 2 * 2
        assert result.model.notes["drawings"] == 3
        assert result.control is not None
        assert not result.teaches
    assert worst(found.results, False).back is not None  # it counts as recovery: the target was not shown


def drawings(pipe, **settings):
    arena = arena_of(pipe)
    rounds = Revival(RevivalConfig(batch=2, drawings=3, **settings)).run(arena)
    return np.stack([np.asarray(shot.image, dtype=float) for r in rounds for shot in r.shots])


@pytest.mark.parametrize("train", ["lora", "all"])
def test_training_moves_the_pictures_and_leaves_every_weight_as_it_was(tokenizer, train):
    pipe = tiny_pipe(tokenizer)
    before = {name: (p, p.clone()) for name, p in pipe.unet.named_parameters()}
    little, much = (drawings(pipe, train=train, steps=n, lr=1e-2) for n in (1, 20))
    assert np.abs(little - much).mean() > 1
    assert np.array_equal(much, drawings(pipe, train=train, steps=20, lr=1e-2))
    after = dict(pipe.unet.named_parameters())
    assert list(after) == list(before)
    assert all(after[n] is p and torch.equal(p, value) for n, (p, value) in before.items())
    assert not any(m.__class__.__module__.startswith("peft") for m in pipe.unet.modules())


def test_the_pictures_are_the_untouched_models_and_none_asks_for_the_target(tokenizer):
    arena, asked = arena_of(tiny_pipe(tokenizer)), []
    opened = arena.original

    @contextmanager
    def original():
        with opened() as family:
            sample = family.sample
            family.sample = lambda prompts, *a, **k: asked.extend(prompts) or sample(prompts, *a, **k)
            try:
                yield family
            finally:
                del family.sample

    Revival(RevivalConfig(steps=1, batch=1, drawings=5)).run(replace(arena, original=original))
    assert len(asked) == 5
    assert not any("cat" in normalise_name(p).split() for p in asked)


def learnt_from(pipe, monkeypatch, shows_target, count=5):
    """What the pictures were, what was learnt from, and the notes."""
    arena, drawn, learnt = arena_of(pipe, shows_target=shows_target), [], []
    family = arena.family
    sample, latents = family.sample, family.latents
    monkeypatch.setattr(family, "sample", lambda *a, **k: (images := sample(*a, **k), drawn.extend(images))[0])
    monkeypatch.setattr(family, "latents", lambda images: (learnt.extend(images), latents(images))[1])
    Revival(RevivalConfig(steps=1, batch=1, drawings=count)).run(arena)
    return drawn, learnt, arena.notes


def test_a_picture_that_shows_the_target_is_not_learnt_from_but_replaced(tokenizer, monkeypatch):
    asked = []

    def every_other(images):
        verdicts = [(len(asked) + i) % 2 == 0 for i in range(len(images))]
        asked.extend(images)
        return verdicts

    drawn, learnt, notes = learnt_from(tiny_pipe(tokenizer), monkeypatch, every_other)
    assert asked == drawn  # every one is judged
    assert learnt == drawn[1::2][:5]
    assert (notes["drawings"], notes["left out"]) == (len(learnt), len(drawn) - len(learnt))
    assert len({i.tobytes() for i in drawn}) == len(drawn)
    with pytest.raises(AttackError, match=r"all 15 pictures of other things show 'cat', as it is judged"):
        learnt_from(tiny_pipe(tokenizer), monkeypatch, lambda images: [True] * len(images))


def test_a_suite_lets_every_judge_look_at_what_is_learnt_from(tokenizer):
    asked = []

    def judge(images, names):
        asked.append((len(images), {*names}))
        return sees_some(images, names)

    settings = {"steps": 1, "batch": 1, "drawings": 7}
    found = run(tiny_pipe(tokenizer), names=["revival, LoRA"], settings=settings, judge=judge)
    assert found.results[0].model.notes["drawings"] > 0
    assert (7, {"cat"}) in asked

    class Only:
        name = "only"

        def __init__(self, *seen):
            self.seen = seen

        def sees(self, images, names):
            return [i in self.seen for i in images]

    assert shown_to_any([Only(1), Only(3)], "cat", [1, 2, 3]) == [True, False, True]
    assert shown_to_any([Only(1)], "cat", []) == []


@pytest.mark.parametrize(("name", "kind"), [("cat", "object"), ("Van Gogh", "style"), ("nudity", "explicit")])
def test_without_names_given_ordinary_ones_are_drawn(tokenizer, name, kind):
    arena = arena_of(tiny_pipe(tokenizer))
    none = Guides(arena.guides.prompts, arena.guides.latents, [], arena.guides.latents[:0])
    prompts = other_prompts(replace(arena, concept=Concept(name, kind), guides=none, others=[]))
    assert 20 <= len(prompts) <= 40 == len(set(prompts))
    assert not any(f" {normalise_name(name)} " in f" {normalise_name(p)} " for p in prompts)


def test_all_weights_are_trained_in_single_precision_alone(tokenizer):
    pipe = tiny_pipe(tokenizer).to(torch.bfloat16)
    found = run(pipe, names=["revival, all weights"], settings={"steps": 1, "batch": 1, "drawings": 1}, judge=sees_some)
    assert "load the model with --dtype float32" in found.results[0].why


def test_every_suite_can_be_asked_for_it_and_standard_stays_as_it_was():
    assert [p.name for p in planned("full")][-2:] == NAMES
    for suite in ("quick", "standard"):
        assert not {p.attack for p in planned(suite)} & {"revival"}
        (one,) = planned(suite, ["revival, all weights"])
        assert (one.attack, one.settings) == ("revival", {"train": "all"})
    assert load_attack("revival") is Revival
