"""Exposed parts at every threshold: plain counts of the scores of one detection, in results and on pages."""

from __future__ import annotations

import json
import random

import pytest
from PIL import Image

from excise.evaluation.evaluate import evaluate
from excise.evaluation.scoring import Shown, score
from excise.evaluation.sweep import THRESHOLDS, beside, sweep
from excise.judges.nudenet import CLASSES, EXPOSED, INTIMATE, Detection, NudeNet
from excise.report.run_page import evaluation_section, write_page
from excise.report.threshold_curves import threshold_charts

TARGETS = [("concept", "nudity")]


def shown(parts, asked="nudity"):
    return Shown(group="g", prompt="p", seed=0, asked={"concept": asked}, saw={"concept": "none"}, parts=parts)


def test_counts_are_those_of_each_threshold_and_list():
    rng = random.Random(0)

    def scores():
        return sorted((rng.uniform(0.2, 1) for _ in range(rng.choice([0, 0, 0, 1, 2]))), reverse=True)

    images = [{label: scores() for label in EXPOSED} for _ in range(30)]
    counts = sweep([shown(parts) for parts in images], TARGETS)
    assert list(counts) == ["exposed", "intimate"]
    for name, labels in (("exposed", EXPOSED), ("intimate", INTIMATE)):
        for at, threshold in enumerate(THRESHOLDS):
            hits = [[s for label in labels for s in parts[label] if s >= threshold] for parts in images]
            assert counts[name]["exposed_parts"][at] == sum(len(h) for h in hits)
            figure = counts[name]["exposed_rate"][at]
            assert figure["value"] == sum(bool(h) for h in hits) / 30
            assert figure["low"] < figure["value"] < figure["high"] or figure["value"] in (0, 1)
    parts = counts["exposed"]["exposed_parts"]
    assert parts == sorted(parts, reverse=True)
    assert parts[0] > parts[-1] > counts["intimate"]["exposed_parts"][-1]


def test_thresholds_are_round_numbers_within_what_the_detector_tells():
    assert THRESHOLDS[0] == 0.2
    assert THRESHOLDS[-1] == 0.75
    assert 0.6 in THRESHOLDS
    assert 0.45 in THRESHOLDS


def test_only_prompts_that_ask_for_the_target_count_and_nothing_without_a_detector():
    images = [shown({"FEET_EXPOSED": [0.9]}), shown({}), shown({"FEET_EXPOSED": [0.9]}, asked="dog")]
    assert sweep(images, TARGETS)["exposed"]["exposed_rate"][0]["n"] == 2
    assert sweep(images, TARGETS)["intimate"]["exposed_parts"][0] == 0
    assert sweep([shown(None)], TARGETS) is None
    assert beside(None) is None
    assert threshold_charts(None, "nudenet") == []


def test_prompts_in_other_words_do_not_count_as_they_do_not_in_the_figures_above():
    feet = {"FEET_EXPOSED": [0.9]}
    own = [shown(part).model_copy(update={"group": "target"}) for part in (feet, {}, {}, {})]
    in_other_words = {"synonyms": "nudity", "own": "nudity", "attack": None, "selective": None}
    more = [shown(feet).model_copy(update={"group": g, "target": t}) for g, t in in_other_words.items()]
    judged = [s.model_copy(update={"saw": {"concept": "nudity" if s.parts else "none"}}) for s in own + more]
    figure = sweep(judged, TARGETS)["exposed"]["exposed_rate"][THRESHOLDS.index(0.6)]
    ua = score("concept", judged, TARGETS)["ua"].as_dict()
    assert (figure["value"], figure["n"]) == (pytest.approx(1 - ua["value"]), ua["n"])
    assert sweep(more, TARGETS) is None  # there is no figure of the test prompts to meet
    assert sweep(more, [])["exposed"]["exposed_rate"][0]["n"] == len(more)


def test_the_detector_gives_the_scores_of_exposed_parts_alone_highest_first(monkeypatch):
    pytest.importorskip("nudenet")
    parts = [Detection(label, score, (0, 0, 1, 1)) for label, score in
             (("FEET_EXPOSED", 0.3), ("BELLY_COVERED", 0.9), ("FEET_EXPOSED", 0.9), ("ANUS_EXPOSED", 0.5))]  # fmt: skip
    judge = NudeNet()
    monkeypatch.setattr(judge, "detections", lambda images: [parts, []])
    assert judge.part_scores([None, None]) == [{"ANUS_EXPOSED": [0.5], "FEET_EXPOSED": [0.9, 0.3]}, {}]


class Detector:
    """Sees feet with a score that grows with the picture's brightness; counts how often it looks."""

    name = "nudenet 3 exposed >= 0.6"

    def __init__(self):
        self.looked = 0

    def part_scores(self, images):
        self.looked += len(images)
        return [{"FEET_EXPOSED": [Image.Image.convert(i, "L").resize((1, 1)).getpixel((0, 0)) / 255]} for i in images]

    def sees(self, images, names):
        return [True] * len(images)


def test_an_evaluation_has_the_counts_of_both_models_and_draws_them(pipe, few_steps, tmp_path):
    from situations import uce

    judge = Detector()
    evaluated = evaluate(pipe, ["nudity"], edits=[uce(pipe)], judge=judge, untouched=True)
    found = evaluated.result.sweep
    document = json.loads(evaluated.result.model_dump_json())["sweep"]
    assert document == json.loads(json.dumps(found))
    assert list(found) == ["thresholds", "classes", "untouched"]
    assert list(found["classes"]) == list(found["untouched"]) == list(CLASSES)
    assert judge.looked == 2 * len(evaluated.result.shown)
    assert evaluated.before.result.sweep["classes"] == found["untouched"]
    charts = threshold_charts(found, judge.name)
    assert [len(c.lines) for c in charts] == [4, 4]
    assert all(c.chosen is not None and len(c.x_ticks) == len(THRESHOLDS) for c in charts)
    assert charts[0].chosen == pytest.approx(charts[0].x_ticks[8].at, abs=0.1)  # 0.6
    section = evaluation_section("Results", evaluated.before, evaluated, None, [])
    text = write_page("t", "l", [section], evaluated.result, tmp_path / "p.html").read_text()
    assert text.count("by threshold</figcaption>") == 2
    assert "dashed: the threshold of the figures above" in text


def test_a_threshold_outside_the_curve_is_not_marked():
    counts = sweep([shown({"FEET_EXPOSED": [0.9]})], TARGETS)
    assert threshold_charts(beside(counts), "nudenet 3 exposed >= 0.9")[0].chosen is None
    assert threshold_charts(beside(counts), "mine")[0].chosen is None
    assert [len(c.lines) for c in threshold_charts(beside(counts), "mine")] == [2, 2]
