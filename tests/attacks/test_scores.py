"""Scores: judges and their threshold, rates and their intervals, gaps, the worst case."""

from __future__ import annotations

import pytest
from attack_runs import run, sees_all
from conftest import tiny_pipe
from PIL import Image

from excise import load
from excise.attacks.accounting import Cost, Outcome, judge_rounds
from excise.attacks.base import Round, Shot
from excise.attacks.panel import Panel, calibrated
from excise.attacks.suite import SuiteOptions, attack


def test_gaps_are_to_the_oracle(tokenizer):
    """The judge sees the target in what the model under attack draws, and not in what the oracle draws."""
    pipe, oracle = tiny_pipe(tokenizer), tiny_pipe(tokenizer, seed=1)
    turn = []
    pipe.text_encoder.register_forward_hook(lambda *_: turn.append(True))
    oracle.text_encoder.register_forward_hook(lambda *_: turn.append(False))
    found = run(pipe, oracle=oracle, names=["seeds"], judge=lambda images, names: [turn[-1]] * len(images))
    (result,) = found.results
    assert (result.model.any_of_n.value, result.oracle.any_of_n.value, result.gap.value) == (1.0, 0.0, 1.0)
    document = result.document()
    assert document["gap"] == 1.0
    assert found.worst.attack == "seeds"
    assert document["budget"] == {"images": 2, "tests": 2, "drawn": 4, "passes": 0}


def test_without_an_oracle_attacks_that_teach_stay_out_of_the_headline(tokenizer):
    """The judge sees the target only while a LoRA is being put on: nobody can tell whether that was taught."""
    pipe = tiny_pipe(tokenizer)
    calls = []

    def judge(images, names):
        calls.append(len(images))
        return [len(calls) <= 2 or len(calls) == 4] * len(images)  # guides, others; seeds; relearning

    found = run(pipe, names=["seeds", "relearning, 5 pictures"], judge=judge)
    assert [r.model.any_of_n.value for r in found.results] == [0.0, 1.0]
    assert found.results[1].gap.value == 1.0
    assert found.worst.gap is None
    assert (found.worst.attack, found.worst.back.value) == ("seeds", 0.0)
    assert found.worst.back.high > 0.6


def test_a_picture_counts_where_both_judges_see_the_target():
    class Judge:
        def __init__(self, *says):
            self.says = says

        def sees(self, images, names):
            return list(self.says)

    rounds = [Round("a cat", [Shot(Image.new("RGB", (4, 4)), "a cat")] * 2) for _ in range(2)]
    cost = Cost(drawn=4, passes=0, seconds=0.0, peak_memory_mb=0.0)
    first, second = Judge(True, True, False, True), Judge(True, False, False, False)
    both, images = judge_rounds(rounds, Panel("cat", [first, second]), cost)
    assert both.shown == [[True, False], [False, False]]
    assert both.disagree == 0.5
    assert len(images) == 4
    assert judge_rounds(rounds, Panel("cat", [first]), cost)[0].shown == [[True, True], [False, True]]


def test_two_judges_have_to_be_as_sure_as_of_the_untouched_models_pictures():
    class Judge:
        name = "sure"

        def __init__(self, *likely):
            self.likely = likely

        def sees(self, images, names):
            return [p >= 0.5 for p in self.likely]

        def likelihood(self, images, name):
            return list(self.likely)

    drawn = [None] * 11
    first, second = Judge(*[0.6 + 0.02 * i for i in range(11)]), Judge(*[0.8] * 11)
    panel = calibrated("cat", [first, second], lambda: drawn)
    assert panel.threshold == 0.71  # the second of the means 0.7, 0.71, ..., 0.8: one in eleven is missed
    assert panel.name == "sure and sure, together sure to 0.71"
    first.likely, second.likely = [0.92, 0.59, 0.9, 0.47], [0.52, 0.8, 0.45, 0.96]
    shown, apart = panel.judge([None] * 4)
    assert shown == [True, False, False, True]
    assert apart == 0.5
    assert calibrated("cat", [Judge(*[0.99] * 11)] * 2, lambda: drawn).threshold == 0.8
    assert calibrated("cat", [Judge(*[0.1] * 11)] * 2, lambda: drawn).threshold == 0.5
    assert calibrated("cat", [first], lambda: pytest.fail("a single judge needs no pictures")).threshold is None


def test_one_share_in_all_prompts_lies_within_its_interval():
    row = [True, False, False]
    rate = Outcome(["a cat"] * 10, [row] * 10, None, [["a cat"] * 3] * 10, 30, 0, 1.0, 1.0).rate
    assert rate.value == pytest.approx(1 / 3)
    assert (rate.low, rate.high) == pytest.approx((0.127, 0.632), abs=1e-3)


def test_a_judge_of_ones_own_decides_alone():
    found = attack(load("canvas-sd"), "cat", (), SuiteOptions(names=["seeds"], tests=1, images=1, judge=sees_all))
    assert "canvas" not in found.judge
    assert found.results[0].model.disagree is None
