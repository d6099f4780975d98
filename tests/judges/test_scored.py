"""Judges that score labels, against a naive reading of the same scores; and judges by name with their settings."""

from __future__ import annotations

from itertools import product
from types import MappingProxyType
from typing import Any

import pytest
import torch
from PIL import Image
from real_judges import pictures

from excise.errors import JudgeError, UnknownNameError
from excise.judges import JUDGES
from excise.judges.base import GradedJudge, Judge
from excise.judges.imagenet import GROUPS, LABELS
from excise.judges.named import check_named, is_named, judge_named
from excise.judges.scored import ScoredJudge
from excise.metrics.unlearning import NONE
from excise.training.scorers import as_judge, as_scorer

LOOKS, MOODS = ("cat", "tiger", "car"), ("calm", "wild")


class Told(ScoredJudge):
    """Gives images the scores that it was made with, in their order."""

    labels = MappingProxyType({"look": LOOKS, "mood": MOODS})
    groups = MappingProxyType({"feline": ("cat", "tiger")})

    def __init__(self, exclusive: bool, threshold: float, n: int = 40) -> None:
        self.name, self.exclusive, self.threshold = "told", exclusive, threshold
        generator = torch.Generator().manual_seed(0)
        self.table = {a: torch.rand(n, len(names), generator=generator) for a, names in self.labels.items()}
        if exclusive:
            self.table = {a: t.softmax(dim=-1) for a, t in self.table.items()}

    def scores(self, images):
        return {a: t[: len(images)] for a, t in self.table.items()}


@pytest.mark.parametrize(("exclusive", "threshold"), product([True, False], [0.0, 0.45, 0.9]))
def test_what_an_image_shows_follows_from_its_scores(exclusive, threshold):
    judge = Told(exclusive, threshold)
    images = [Image.new("RGB", (4, 4))] * 40
    assert isinstance(judge, Judge)
    assert isinstance(judge, GradedJudge)
    verdicts, likely = judge.verdicts(images), judge.likelihood(images, "feline")
    names = [*LOOKS, *MOODS, "feline"]
    rows = judge.sees_each(images, names)
    for i in range(40):
        scores = {label: float(judge.table[a][i, k]) for a, ls in judge.labels.items() for k, label in enumerate(ls)}
        best = {a: max(ls, key=scores.__getitem__) for a, ls in judge.labels.items()}
        assert {a: v[i] for a, v in verdicts.items()} == {
            a: best[a] if scores[best[a]] >= threshold else NONE for a in judge.labels
        }
        shown = {x for x in scores if scores[x] >= threshold and (not exclusive or x in best.values())}
        assert rows[i] == [*(x in shown for x in (*LOOKS, *MOODS)), bool({"cat", "tiger"} & shown)]
        both = [scores["cat"], scores["tiger"]]
        assert likely[i] == pytest.approx(sum(both) if exclusive else max(both))
    asked = (names * 7)[:40]
    assert judge.sees(images, asked) == [row[names.index(n)] for row, n in zip(rows, asked, strict=True)]


def test_no_images_and_no_names():
    judge = Told(True, 0.5)
    assert judge.sees_each([], ["cat"]) == judge.sees([], []) == judge.likelihood([], "cat") == []
    assert judge.sees_each(pictures(2), []) == [[], []]


def test_a_number_that_is_none_is_nothing_seen():
    judge = Told(True, 0.0)
    judge.table = {a: torch.full_like(t, float("nan")) for a, t in judge.table.items()}
    assert judge.verdicts(pictures(1)) == {"look": [NONE], "mood": [NONE]}
    assert judge.sees(pictures(1), ["cat"]) == [False]


def test_a_name_that_the_judge_does_not_know_is_refused_with_the_nearest():
    judge = Told(True, 0.5)
    for ask in (lambda: judge.sees(pictures(1), ["tigger"]), lambda: judge.likelihood([], "tigger")):
        with pytest.raises(JudgeError, match=r"told cannot see 'tigger'.*Did you mean 'tiger'\?"):
            ask()


def test_a_protocol_with_other_attributes_asks_the_labels_it_knows():
    judge = Told(True, 0.0)
    assert as_judge(judge, {"look": ["cat"]}) is judge
    named = as_judge(judge, {"object": ["cat", "car"]})
    seen = named.verdicts(pictures(5))["object"]
    likeliest = judge.verdicts(pictures(5))["look"]
    assert seen == [look if look in ("cat", "car") else NONE for look in likeliest]
    with pytest.raises(JudgeError, match="cannot see 'zebra'"):
        as_judge(judge, {"object": ["zebra"]}).verdicts(pictures(1))


def test_every_class_of_imagenet_has_one_name_and_every_group_its_classes():
    assert len(LABELS) == len(set(LABELS)) == 1000
    assert all(set(classes) <= set(LABELS) and len(set(classes)) == len(classes) for classes in GROUPS.values())
    assert not set(GROUPS) & set(LABELS)


def make(weights: Any = None, threshold: float = 0.5) -> Told:
    """A judge of a test by name."""
    return Told(False, float(threshold))


@pytest.fixture
def registered(monkeypatch):
    monkeypatch.setattr(JUDGES, "_entries", {**JUDGES._entries, "told": type("R", (), {"load": lambda self: make})()})


def test_a_judge_goes_by_its_name_with_settings(registered, tmp_path, monkeypatch):
    assert is_named("told")
    assert is_named("told:threshold=0.3")
    judge = judge_named("told:threshold=0.3")
    assert judge.threshold == 0.3
    assert isinstance(as_scorer("told", built_in=False), Told)
    for given, message in (
        ("told:limit=1", r"no setting 'limit=1'; it takes threshold=\.\.\."),
        ("told:threshold", "no setting 'threshold'"),
        ("told:threshold=much", "does not take threshold=much"),
    ):
        with pytest.raises(JudgeError, match=message):
            judge_named(given)
    (tmp_path / "told").mkdir()
    monkeypatch.chdir(tmp_path)
    assert not is_named("told")  # a folder comes first


def test_what_is_neither_folder_nor_judge_is_refused_with_the_nearest_name(tmp_path):
    check_named(tmp_path)
    check_named("nudenet:threshold=0.5")
    with pytest.raises(JudgeError, match=r"no folder and no judge nudent; .*Did you mean 'nudenet'\?"):
        check_named("nudent")
    (tmp_path / "a.bin").write_bytes(b"")
    with pytest.raises(JudgeError, match=r"a\.bin is a file"):
        check_named(tmp_path / "a.bin")
    with pytest.raises(UnknownNameError):
        judge_named("nothing")
