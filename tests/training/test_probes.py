"""Probes: what a model in training still shows of the target and of what is retained."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from conftest import tiny_pipe

from excise.errors import ConceptError, ExciseWarning
from excise.families import family_of
from excise.training.pictures import Sampling
from excise.training.probes import Preview, Probe


class Half:
    """Sees every name in every second picture, or as told."""

    name = "half"

    def __init__(self, sees=lambda name, i: True):
        self.answer, self.asked = sees, []

    def sees(self, images, names):
        self.asked += names
        return [self.answer(n, i) for i, n in enumerate(names)]


@pytest.fixture
def family(tokenizer):
    return family_of(tiny_pipe(tokenizer))


def test_a_judge_that_never_sees_the_target_is_found_out_before_training(family):
    probes = [Probe("a cat", "cat", "target"), Probe("a dog", "dog", "related"), Probe("a car", "car", "unrelated")]
    with pytest.raises(ConceptError, match="never sees 'cat' in what the untouched model draws"):
        Preview(family, probes, Half(lambda name, i: name != "cat"), Sampling(2, 1.0), 0)


def test_rates_count_what_was_right_before(family):
    probes = [Probe("a cat", "cat", "target"), Probe("cat", "cat", "target")]
    probes += [Probe(p, "dog", "related") for p in ("a dog", "dog", "the dog")] + [Probe("a car", "car", "unrelated")]
    answers = {True: [True, True, True, True, False, True], False: [False, True, True, False, True, True]}
    first = [True]

    class Scripted:
        name = "scripted"

        def sees(self, images, names):
            return answers[first.pop() if first else False]

    preview = Preview(family, probes, Scripted(), Sampling(2, 1.0), 0)
    rates = preview.rates(preview.before)
    assert (rates.erase, rates.related, rates.unrelated) == (0.5, 0.5, 1.0)
    assert rates.score == pytest.approx(3 / (2 + 2 + 1))
    assert rates.instead == 0


def test_a_closer_look_has_more_seeds_of_what_is_kept_and_counts_what_became_right(family):
    probes = [Probe("a cat", "cat", "target"), Probe("a dog", "dog", "related"), Probe("a car", "car", "unrelated")]
    before = [True, *(True, True), *(True, False), *(False, True)]  # then two seeds more of dog, and of car
    now = [False, *(True, True), *(False, True), *(False, False)]
    looks = iter([before[:3], before, now])
    scorer = SimpleNamespace(name="scripted", sees=lambda images, names: next(looks))
    preview = Preview(family, probes, scorer, Sampling(2, 1.0), 0)
    closer = preview.closer(3)
    assert [p.name for p in closer.probes] == ["cat", "dog", "car", "dog", "dog", "car", "car"]
    assert closer.before[:3] == preview.before
    assert len({image.tobytes() for image in closer.before}) == 7
    rates = closer.rates(closer.before)
    assert (rates.erase, rates.related, rates.unrelated) == (1.0, 1.0, 0.5)  # one dog for another; of two cars one


def test_a_closer_look_judges_all_that_a_picture_of_what_is_kept_should_show(family):
    dog = Probe("a dog in sepia", "dog", "related", "sepia")
    probes = [Probe("a cat", "cat", "target"), dog, Probe("a car", "car", "unrelated")]
    broken: set[str] = set()
    scorer = SimpleNamespace(name="scripted", sees=lambda images, names: [n not in broken for n in names])
    preview = Preview(family, probes, scorer, Sampling(2, 1.0), 0)
    closer = preview.closer(2)
    broken |= {"sepia", "cat"}
    for at, related in ((preview, 1.0), (closer, 0.0)):
        rates = at.rates(at.before)
        assert (rates.erase, rates.related, rates.unrelated) == (1.0, related, 1.0)


def test_rates_tell_wreckage_from_something_else(family):
    probes = [Probe("a cat", "cat", "target"), Probe("cat", "cat", "target"), Probe("a dog", "dog", "related")]
    scorer = Half()
    preview = Preview(family, probes, scorer, Sampling(2, 1.0), 0, others=["tree", "car"])
    scorer.asked.clear()
    scorer.answer = lambda name, i: i == 3  # of cat, cat, dog none; of tree and car in two pictures the last
    rates = preview.rates(preview.before)
    assert scorer.asked == ["cat", "cat", "dog", "tree", "car", "tree", "car"]
    assert (rates.erase, rates.instead) == (1.0, 0.5)


def test_the_target_that_is_least_gone_tells_what_is_erased(family):
    probes = [Probe("a", "cat", "target"), Probe("b", "dog", "target"), Probe("c", "ox", "related")]
    probes += [Probe("d", "car", "gone"), Probe("e", "car", "gone")]
    scorer = Half(lambda name, i: i != 3)
    preview = Preview(family, [*probes, Probe("f", "sea", "unrelated")], scorer, Sampling(2, 1.0), 0)
    scorer.answer = lambda name, i: name != "cat"  # all but the cat is seen, the car too
    assert preview.rates(preview.before).erase == 0.0
    scorer.answer = lambda name, i: name in ("ox", "sea")
    assert (preview.rates(preview.before).erase, preview.rates(preview.before).retain) == (1.0, 1.0)
    scorer.answer = lambda name, i: i == 3 or name in ("ox", "sea")  # the one car that was gone is back
    assert preview.rates(preview.before).erase == 0.0
    scorer.answer = lambda name, i: i == 4 or name in ("ox", "sea")  # the other was never gone
    assert preview.rates(preview.before).erase == 1.0


def test_pooled_targets_count_together(family):
    probes = [Probe("a", "cat", "target"), Probe("b", "dog", "target"), Probe("c", "ox", "related")]
    scorer = Half(lambda name, i: True)
    preview = Preview(family, probes, scorer, Sampling(2, 1.0), 0, pooled=True)
    scorer.answer = lambda name, i: name != "cat"
    assert preview.rates(preview.before).erase == 0.5
    unseen = Half(lambda name, i: name != "dog")  # a name that is never drawn says nothing about the others
    preview = Preview(family, probes, unseen, Sampling(2, 1.0), 0, pooled=True)
    unseen.answer = lambda name, i: name == "ox"
    assert preview.rates(preview.before).erase == 1.0


def test_what_nobody_sees_is_said(family):
    probes = [Probe("a", "cat", "target"), Probe("b", "ox", "related"), Probe("c", "sea", "unrelated")]
    with pytest.warns(ExciseWarning, match="half sees nothing of what is to be kept"):
        Preview(family, probes, Half(lambda name, i: name == "cat"), Sampling(2, 1.0), 0)
    scorer = Half(lambda name, i: name != "dog")
    with pytest.raises(ConceptError, match="half never sees 'dog'"):
        Preview(family, [*probes, Probe("c", "dog", "target")], scorer, Sampling(2, 1.0), 0)


def test_prompts_that_the_model_does_not_draw_give_way_to_further_seeds_of_those_that_it_draws(family):
    probes = [Probe(p, "cat", "target") for p in ("a cat", "cat, odd", "cat, odder")]
    probes += [Probe("a dog", "dog", "related"), Probe("dog, odd", "dog", "related")]
    answers = iter([[True, False, False, True, False], [True, False]])  # of two further cats one
    scorer = SimpleNamespace(name="scripted", sees=lambda images, names: next(answers))
    preview = Preview(family, probes, scorer, Sampling(2, 1.0), 0, telling=True)
    assert [p.prompt for p in preview.probes] == ["a cat", "a cat", "cat, odder", "a dog", "dog, odd"]
    assert preview.right == [True, True, False, True, False]
    assert len({image.tobytes() for image in preview.before[:2]}) == 2
    assert [image.tobytes() for image in preview.draw()] == [image.tobytes() for image in preview.before]


def test_probes_that_all_are_right_stay_as_they_are(family):
    probes = [Probe("a cat", "cat", "target"), Probe("a dog", "dog", "related")]
    plain, telling = (Preview(family, probes, Half(), Sampling(2, 1.0), 0, telling=on) for on in (False, True))
    assert telling.probes == plain.probes
    assert [i.tobytes() for i in telling.before] == [i.tobytes() for i in plain.before]


def test_what_an_edit_never_touches_is_not_drawn_again(family):
    probes = [Probe("a cat", "cat", "target"), Probe("a dog", "dog", "related"), Probe("a car", "car", "unrelated")]
    preview = Preview(family, probes, Half(), Sampling(2, 1.0), 0)
    preview.leave([False, True, False])
    asked: list[str] = []
    preview.sampling = SimpleNamespace(draw=lambda family, prompts, seeds, progress: asked.extend(prompts) or [0, 1])
    assert preview.draw() == [0, preview.before[1], 1]
    assert asked == ["a cat", "a car"]
