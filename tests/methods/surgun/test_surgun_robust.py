"""Hardening: further trainings against prompts that regain the target, and the words that are learnt meanwhile."""

from __future__ import annotations

import warnings
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from conftest import tiny_pipe
from PIL import Image
from surgun_help import HARDENED, SMALL
from torch.testing import assert_close

from excise import erase
from excise.attacks.inversion import InversionConfig
from excise.attacks.unlearndiffatk import UnlearnDiffAtkConfig
from excise.concepts.candidates import CANDIDATES
from excise.concepts.concept import Concept
from excise.errors import ExciseWarning, SettingError
from excise.families import family_of
from excise.families.noising import noising
from excise.families.text_space import pooled
from excise.methods.base import Context
from excise.methods.trained.surgun import restoring
from excise.methods.trained.surgun.competition import Competition
from excise.methods.trained.surgun.config import SurgUnConfig
from excise.methods.trained.surgun.objective import Job
from excise.methods.trained.surgun.robust import BYSTANDERS, RETAINED_PICTURES, closer


@pytest.fixture
def family(tokenizer):
    return family_of(tiny_pipe(tokenizer))


def test_a_hardening_holds_pictures_of_what_is_nearest_to_a_target_and_of_the_rest_and_under_words_of_nobody(family):
    retain = [f"{a} {b}" for a in ("dog", "sea", "hat", "car", "sun", "owl", "ship") for b in "abcdefghijklmnopqrst"]
    drawn, rendered = [], []

    def draw(family, prompts, seeds, say):
        drawn.extend(prompts)
        return [Image.new("RGB", (64, 64))] * len(prompts)

    def render(family, condition, seeds):
        rendered.append((condition, seeds))
        return [Image.new("RGB", (64, 64), "white")] * len(seeds)

    problem = SimpleNamespace(
        family=family,
        concepts=[Concept("cat", synonyms=("kitten",))],
        retain=retain,
        seed=0,
        sampling=SimpleNamespace(draw=draw, render=render),
        say=lambda *_: None,
    )
    slots = SimpleNamespace(prompts=["a cat", "the cat in neon"], target=torch.zeros(2, *family.latent_shape))
    job = Job(problem, SurgUnConfig(), [Competition(slots, family, noising(family.pipe.scheduler), 2)], None)
    (competition,) = closer(job).competitions
    states = torch.nn.functional.normalize(pooled(family, ["cat", "kitten", *retain]), dim=-1)
    nearness = dict(zip(retain, (states[2:] @ states[:2].T).amax(1).tolist(), strict=True))
    near, rest = drawn[: RETAINED_PICTURES // 2], drawn[RETAINED_PICTURES // 2 :]
    assert len(set(drawn)) == RETAINED_PICTURES
    assert near == sorted(retain, key=nearness.__getitem__, reverse=True)[: len(near)]
    assert rest != sorted(rest, key=nearness.__getitem__, reverse=True)
    retained = competition.retained
    assert len(retained.condition) == BYSTANDERS + len(retain) + 1
    assert len(retained.pictures) == BYSTANDERS + RETAINED_PICTURES
    for name, states in family.condition([near[0]]).inputs.items():
        assert_close(retained.condition.inputs[name][BYSTANDERS], states[0])
    ((condition, seeds),) = rendered
    assert len(set(seeds)) == len(condition) == BYSTANDERS
    for name, states in condition.inputs.items():
        assert torch.equal(retained.condition.inputs[name][:BYSTANDERS], states)
    white, black = (family.latents([Image.new("RGB", (64, 64), c)]) for c in ("white", "black"))
    assert_close(retained.pictures[:BYSTANDERS], white.expand(BYSTANDERS, -1, -1, -1))
    assert_close(retained.pictures[BYSTANDERS:], black.expand(RETAINED_PICTURES, -1, -1, -1))


@pytest.mark.parametrize("share", [1.0, 0.25])
def test_words_that_nobody_taught_are_mixtures_of_two_in_the_place_of_the_targets_name(any_pipe, monkeypatch, share):
    family, prompts = family_of(any_pipe), ["a cat", "the kitty on grass"]
    concept = Concept("cat", synonyms=("kitty",))
    slots = SimpleNamespace(prompts=prompts, target=torch.zeros(2, *family.latent_shape))
    read, asked = restoring.read_as, {}

    def spied(arena, words, vectors, texts):
        asked.update(words=words, vectors=vectors, texts=texts)
        return read(arena, words, vectors, texts)

    monkeypatch.setattr(restoring, "read_as", spied)
    monkeypatch.setattr(torch, "rand", lambda *size, generator: torch.full(size, share))
    made = restoring.bystanders(family, concept, slots, 0, 6)
    words, name = asked["words"], next(iter(asked["vectors"]))
    assert not {"cat", "kitty"} & set(words.words)
    apart, nearest = torch.cdist(asked["vectors"][name][:, 0].float(), words.rows[name].float()).min(dim=1)
    if share < 1:
        assert bool((apart > 1e-3).all())  # no word that there is
        return
    for i, text in enumerate(asked["texts"]):
        word = words.words[int(nearest[i])]
        plain = family.condition([text.replace("cat", word).replace("kitty", word)])
        for key, states in plain.inputs.items():
            length = states.shape[1] if states.dim() > 1 else 1
            assert_close(made.inputs[key][i][:length], states[0][:length], rtol=1e-3, atol=1e-4)
    assert set(asked["texts"]) == set(prompts)
    again, other = (restoring.bystanders(family, concept, slots, seed, 6) for seed in (0, 1))
    assert all(torch.equal(t, again.inputs[n]) for n, t in made.inputs.items())
    assert not all(torch.equal(t, other.inputs[n]) for n, t in made.inputs.items())


@pytest.fixture
def short_searches(monkeypatch):
    monkeypatch.setattr(restoring, "SEARCHING", UnlearnDiffAtkConfig(iterations=2))
    monkeypatch.setattr(restoring, "LEARNING", InversionConfig(iterations=2))


@pytest.mark.usefixtures("short_searches")
@pytest.mark.parametrize("knobs", [{"confine": False, "blocks": "all"}, {"share": 0.5}])
def test_hardening_adds_a_wider_training_to_the_first(tokenizer, tmp_path, knobs):
    pipe = tiny_pipe(tokenizer)
    weights = {name: w.clone() for name, w in pipe.unet.state_dict().items()}

    def made(robust, folder=None):
        context = Context(folder=folder)
        small = HARDENED if robust else SMALL
        return erase(pipe, ["cat"], "surgun", preserve=["dog"], robust=robust, context=context, **knobs, **small)

    plain, one, again = made(0), made(1, tmp_path), made(1)
    (found,) = one.record.measured["hardening"]
    words = found["words"]["cat"]
    assert 1 <= len(words) <= 2
    assert all(len(w.split()) == 3 and "cat" not in w.split() for w in words)
    assert found["learnt_words"] == {"cat": restoring.LEARNT}
    assert found["restored"] == {"cat": None}  # nobody looked
    assert "hardening" not in plain.record.measured
    assert all(torch.equal(t, again.tensors()[name]) for name, t in one.tensors().items())
    rank = next(iter(plain.modules.values())).b.shape[1]
    for path, first in plain.modules.items():  # the first is in it as it was
        assert torch.equal(one.modules[path].b[:, :rank], first.b)
        assert torch.equal(one.modules[path].a[:rank], first.a)
    further = set(one.paths) - set(plain.paths)
    assert set(one.paths) == {m.path for m in family_of(pipe).attention_maps()}
    assert further or not knobs.get("share")
    assert any(bool(one.modules[path].delta(one.modules[path].b).any()) for path in one.paths)
    assert (tmp_path / "robust-1" / "state.pt").exists()
    assert all(torch.equal(w, weights[name]) for name, w in pipe.unet.state_dict().items())


@pytest.mark.usefixtures("short_searches")
def test_hardening_ends_where_nothing_brings_the_target_back(any_pipe, monkeypatch):
    """The judge sees the target with what was found before the first further training, and no more after it."""
    looked = []

    def judge(images, names):
        return [True] * len(names)

    def shown(problem, concept, found):
        looked.append(len(found))
        return 0.5 if len(looked) == 1 else 0.0

    monkeypatch.setattr("excise.methods.trained.surgun.robust.regained_rate", shown)
    edit = erase(any_pipe, ["cat"], "surgun", preserve=["dog"], robust=5, share=0.5, context=Context(judge), **HARDENED)
    rounds = edit.record.measured["hardening"]
    assert [r["restored"]["cat"] for r in rounds] == [0.5, 0.0]
    assert ["step" in r for r in rounds] == [True, False]
    assert len(looked) == 2


@pytest.mark.usefixtures("short_searches")
def test_a_hardening_that_keeps_too_little_is_left_out_and_the_next_is_pushed_less(tokenizer, monkeypatch):
    """The judge no longer sees what is kept once the second edit is in force, in all trainings or in the first."""
    pipe = tiny_pipe(tokenizer)
    weights, train = [], Job.train

    def spied(job, *more):
        weights.append(job.config.weight)
        return train(job, *more)

    monkeypatch.setattr(Job, "train", spied)

    def made(robust, blind=0):
        weights.clear()  # of the first training, then of each further one
        context = Context(lambda images, names: [name == "cat" or not 2 <= len(weights) <= 1 + blind for name in names])
        return erase(
            pipe,
            ["cat"],
            "surgun",
            preserve=["dog", "sea"],
            robust=robust,
            share=0.5,
            widen=1.0,
            context=context,
            **(HARDENED if robust else SMALL),
        )

    plain = made(0)
    with pytest.warns(ExciseWarning, match="round 2 of the hardening, the last, kept less than 97%"):
        held = made(2, blind=2)
    assert [r["step"] for r in held.record.measured["hardening"]] == [None, None]
    assert {p["retain"] for r in held.record.measured["hardening"] for p in r["calibration"]} == {0.0}
    assert all(torch.equal(t, held.tensors()[name]) for name, t in plain.tensors().items())
    assert held.paths == plain.paths

    with warnings.catch_warnings():
        warnings.simplefilter("error", ExciseWarning)
        second = made(2, blind=1)
    assert_close(weights[1:], [1.0, 1.0 / 3])
    first, last = second.record.measured["hardening"]
    assert (first["step"], first["push"]) == (None, 10.0)
    assert last["step"]
    assert last["push"] == pytest.approx(10 / 3)
    assert set(second.paths) > set(plain.paths)


@pytest.mark.usefixtures("short_searches")
def test_what_was_found_is_drawn_and_judged(any_pipe):
    def judge(images, names):
        assert set(names) <= {"cat", "dog", *CANDIDATES["object"]}
        return [True] * len(names)

    edit = erase(any_pipe, ["cat"], "surgun", preserve=["dog"], robust=1, share=0.5, context=Context(judge), **HARDENED)
    assert edit.record.measured["hardening"][0]["restored"] == {"cat": 1.0}


@pytest.mark.usefixtures("short_searches")
def test_an_interrupted_hardening_goes_on_with_its_adversary(tokenizer, tmp_path):
    """Between two of its checkpoints; the words that were being learnt are where they were."""
    pipe = tiny_pipe(tokenizer)

    def stop(what, done, total):
        if what.startswith("training") and total == 2 * SMALL["steps"] and done == 5:
            raise KeyboardInterrupt

    def made(context):
        return erase(pipe, ["cat"], "surgun", preserve=["dog"], robust=1, share=0.5, context=context, **HARDENED)

    with pytest.raises(KeyboardInterrupt):
        made(Context(folder=tmp_path, say=stop))
    steps: list[int] = []

    def watch(what, done, total):
        if what.startswith("training") and total == 8:
            steps.append(done)

    again = made(Context(folder=tmp_path, say=watch))
    assert steps[0] == 5  # the checkpoint of step 4 was gone on from
    whole = made(Context())
    assert all(torch.equal(t, again.tensors()[name]) for name, t in whole.tensors().items())


@pytest.fixture
def adversary(any_pipe):
    family = family_of(any_pipe)
    prompts = ["a cat", "the cat", "a cat on grass"]
    target = torch.randn(3, *family.latent_shape, generator=torch.Generator().manual_seed(0))
    return restoring.adversary(family, Concept("cat"), SimpleNamespace(prompts=prompts, target=target), 0, 0)


def test_words_are_learnt_and_the_model_is_not_touched(adversary):
    model = adversary.arena.family.denoiser
    before = {name: w.clone() for name, w in model.state_dict().items()}
    first = [w.vectors[n].clone() for w in adversary.words for n in w.vectors]

    def error(generator):
        at, clean, noise, t = adversary.arena.noised(generator, 16)
        with torch.no_grad():
            return float(adversary.arena.errors(clean, noise, t, adversary.read(at, generator)).mean())

    begun = error(torch.Generator().manual_seed(9))
    generator = torch.Generator().manual_seed(1)
    for _ in range(15):
        adversary.learn(generator)
    assert error(torch.Generator().manual_seed(9)) < begun
    now = [w.vectors[n] for w in adversary.words for n in w.vectors]
    assert not any(torch.equal(a, b) for a, b in zip(first, now, strict=True))
    assert all(torch.equal(w, before[name]) for name, w in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_one_word_after_another_begins_anew(adversary, monkeypatch):
    monkeypatch.setattr("excise.methods.trained.surgun.adversary.LIFE", 2 * len(adversary.words))
    old = list(adversary.words)
    generator = torch.Generator().manual_seed(1)
    left = []
    for _ in range(6):
        adversary.learn(generator)
        left.append(sum(now is not then for now, then in zip(adversary.words, old, strict=True)))
    assert left == [0, 1, 1, 2, 2, 3]
    rows = {name: {tuple(r.tolist()) for r in table} for name, table in adversary.known.rows.items()}
    fresh = adversary.words[3]
    assert all(tuple(v.tolist()) in rows[n] for n in rows for v in fresh.vectors[n].detach())
    assert old[0] is adversary.words[0]


def test_prompts_of_a_hardening_are_the_targets_own_found_ones_and_those_of_the_adversary(any_pipe):
    family = family_of(any_pipe)
    own, found = family.condition(["a cat"] * 4), family.condition(["a tree"] * 4)
    learnt = family.condition(["a car"] * 4)
    asked = SimpleNamespace(learnt=0, learn=lambda g: setattr(asked, "learnt", asked.learnt + 1))
    asked.read = lambda s, g: learnt
    slots = SimpleNamespace(condition=own)
    plain = Competition(slots, family, None, 4)
    hard = replace(plain, restoring=(restoring.Restoring("", found),), adversary=asked)

    def drawn(competition):
        generator = torch.Generator().manual_seed(0)
        rows = [competition.target_condition(torch.arange(4), generator).inputs for _ in range(200)]
        kinds = {"own": own, "found": found, "learnt": learnt}
        same = {n: lambda r, c=c: all(torch.equal(v, r[k]) for k, v in c.inputs.items()) for n, c in kinds.items()}
        return {n: sum(map(is_it, rows)) / 200 for n, is_it in same.items()}

    assert drawn(plain) == drawn(hard.plain) == {"own": 1.0, "found": 0.0, "learnt": 0.0}
    shares = drawn(hard)
    assert asked.learnt == 200
    assert sum(shares.values()) == 1.0
    assert_close(list(shares.values()), [0.25, 0.25, 0.5], atol=0.1, rtol=0)
    assert drawn(replace(hard, restoring=()))["found"] == 0.0


def test_hardening_needs_something_to_keep(tokenizer):
    with pytest.raises(SettingError, match="robust need"):
        erase(tiny_pipe(tokenizer), ["cat"], "surgun", robust=1, confine=False, blocks="all", **HARDENED)
