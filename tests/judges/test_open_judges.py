"""Judges that are asked about a name: labels, detections with scores, and independence of the batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from PIL import Image

from excise.canvas import render, world
from excise.errors import ExciseError
from excise.judges.base import GradedJudge, LabelJudge, OpenJudge
from excise.judges.canvas import CanvasJudge
from excise.training.scorers import CanvasScorer, as_scorer


@dataclass(frozen=True)
class Detection:
    label: str
    score: float


class BrightnessDetector:
    """A detector as NudeNet is one: several detections an image, each with a class and a score."""

    name = "brightness-detector"
    classes = ("bright", "dark")

    def detect(self, image: Image.Image) -> list[Detection]:
        bright = float(np.asarray(image.convert("L")).mean() / 255)
        return [Detection("bright", bright), Detection("bright", bright / 2), Detection("dark", 1 - bright)]

    def likelihood(self, images: Sequence[Image.Image], name: str) -> list[float]:
        if name not in self.classes:
            raise ExciseError(f"{self.name} has no class '{name}'; it has: {', '.join(self.classes)}.")
        return [max(d.score for d in self.detect(i) if d.label == name) for i in images]

    def sees(self, images: Sequence[Image.Image], names: Sequence[str]) -> list[bool]:
        return [self.likelihood([i], n)[0] >= 0.6 for i, n in zip(images, names, strict=True)]


@pytest.fixture(scope="module")
def cells() -> list[tuple[str, str]]:
    return [("cat", "plain"), ("dog", "neon"), ("house", "sepia"), ("cat", "neon")]


@pytest.fixture(scope="module")
def images(cells) -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(render.draw(*cell, rng)) for cell in cells]


def test_detections_with_scores_make_an_open_judge():
    detector: OpenJudge = BrightnessDetector()
    white, grey = (Image.new("RGB", (8, 8), (level,) * 3) for level in (255, 127))
    assert isinstance(detector, GradedJudge)
    assert as_scorer(detector, built_in=False) is detector
    assert detector.sees([white, grey, grey], ["bright", "bright", "dark"]) == [True, False, False]
    assert detector.likelihood([white, grey], "dark") == pytest.approx([0, 1 - 127 / 255])
    with pytest.raises(ExciseError, match="no class 'cat'"):
        detector.sees([white], ["cat"])


def test_a_judge_with_labels_answers_about_each_of_its_names(images, cells):
    judge = LabelJudge(CanvasJudge("b"))
    assert judge.name == "canvas-judge-b"
    assert judge.sees(images, [o for o, _ in cells]) == [True] * 4
    assert judge.sees(images, [s for _, s in cells]) == [True] * 4
    assert judge.sees(images, ["dog", "cat", "cat", "dog"]) == [False] * 4


def test_a_name_may_stand_for_several_labels(images, cells):
    judge = LabelJudge(CanvasJudge("b"), lambda name: frozenset(world.pair(name) or (name,)))
    pairs = [world.pair_name(*cell) for cell in cells]
    assert judge.sees(images, pairs) == CanvasScorer().sees(images, pairs) == [True] * 4
    assert judge.sees(images, ["cat in neon style"] * 4) == [False, False, False, True]


def test_an_answer_does_not_depend_on_the_other_images(images, cells):
    judge, names = LabelJudge(CanvasJudge("b")), ["cat", "neon", "dog", "cat"]
    together = judge.sees(images, names)
    assert [judge.sees([i], [n])[0] for i, n in zip(images, names, strict=True)] == together
    assert judge.sees(images[::-1], names[::-1]) == together[::-1]
