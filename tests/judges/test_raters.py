"""People as judges: rating files, their majority and agreement, and the page that makes them."""

from __future__ import annotations

import itertools
import json
import re

import numpy as np
import pytest
from PIL import Image

from excise.errors import JudgeError
from excise.evaluation.folder import Drawn
from excise.evaluation.judge_folder import asking_pairs, judge_pictures
from excise.judges.raters import COLUMNS, Raters, Rating, picture_id, read_ratings
from excise.report.rating_page import write_rating_page


def alpha_from_the_formula(table):
    """Krippendorff's alpha for nominal data: one minus observed over expected disagreement, over pairs of answers."""
    units = [[v for v in column if v is not None] for column in zip(*table, strict=True)]
    units = [u for u in units if len(u) > 1]
    n = sum(map(len, units))
    observed = sum(sum(a != b for a, b in itertools.permutations(u, 2)) / (len(u) - 1) for u in units) / n
    values = [v for u in units for v in u]
    expected = sum(a != b for a, b in itertools.permutations(values, 2)) / (n * (n - 1))
    return 1 - observed / expected


def pictures(n, seed=0):
    rng = np.random.default_rng(seed)
    return [Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)) for _ in range(n)]


def ratings(images, by_rater, concept="cat"):
    return [
        Rating(rater, concept, f"p{i}", picture_id(image), answer)
        for rater, answers in by_rater.items()
        for i, (image, answer) in enumerate(zip(images, answers, strict=True))
        if answer is not None
    ]


def test_the_majority_sees_and_a_tie_counts_as_seen():
    images = pictures(4)
    raters = Raters(ratings(images, {"a": [1, 1, 0, 0], "b": [1, 0, 0, None], "c": [0, None, 1, None]}))
    assert raters.sees(images, ["cat"] * 4) == [True, True, False, False]
    assert raters.sees(images[:1], ["dog"]) == [False]
    assert raters.name == "3 raters (a, b, c)"


def test_agreement_is_krippendorffs_alpha():
    pytest.importorskip("krippendorff")
    rng = np.random.default_rng(1)
    images = pictures(30)
    truth = rng.integers(0, 2, 30)
    by_rater = {}
    for rater in "abc":
        flips, gaps = rng.random(30) < 0.15, rng.random(30) < 0.1
        by_rater[rater] = [None if g else bool(t ^ f) for t, f, g in zip(truth, flips, gaps, strict=True)]
    agreement = Raters(ratings(images, by_rater)).agreement()
    assert agreement is not None
    assert agreement.value == pytest.approx(alpha_from_the_formula(list(by_rater.values())))
    assert agreement.low < agreement.value < agreement.high
    assert agreement.n == 30


def test_agreement_counts_only_pictures_that_several_people_rated():
    pytest.importorskip("krippendorff")
    images = pictures(6)
    by_rater = {"a": [1, 0, 1, 0, 1, 1], "b": [1, 0, 0, None, None, None]}
    agreement = Raters(ratings(images, by_rater)).agreement()
    assert agreement is not None
    assert agreement.n == 3


def test_a_concept_is_known_in_any_spelling():
    images = pictures(1)
    raters = Raters(ratings(images, {"a": [1]}, concept="Cat"))
    assert raters.knows("cat")
    assert raters.sees(images, ["cat"]) == [True]


def test_of_one_rater_or_one_answer_there_is_no_agreement():
    pytest.importorskip("krippendorff")
    images = pictures(3)
    assert Raters(ratings(images, {"a": [1, 0, 1]})).agreement() is None
    assert Raters(ratings(images, {"a": [1, 1, 1], "b": [1, 1, 1]})).agreement() is None


def written(path, rows, columns=COLUMNS):
    path.write_text("\n".join(",".join(row) for row in [columns, *rows]) + "\n")
    return path


def row(rater="a", concept="cat", pair="p", picture="x", shows="yes"):
    return ("page", rater, concept, pair, picture, shows, "1.0")


def test_rating_files_that_cannot_be_used_are_refused(tmp_path):
    cases = {
        "twice": ([row(), row()], "row 2 of .* and row 1 of .* rate the same picture by a"),
        "answer": ([row(shows="maybe")], "row 1 of .* answers 'maybe'; expected yes or no"),
        "concepts": ([row(), row(pair="q", concept="dog")], "are of cat and dog; give those of one concept"),
        "empty": ([], "there are no ratings in"),
    }
    for name, (rows, message) in cases.items():
        with pytest.raises(JudgeError, match=message):
            read_ratings([written(tmp_path / f"{name}.csv", rows)])
    with pytest.raises(JudgeError, match="no rating file: expected the columns page, rater"):
        read_ratings([written(tmp_path / "other.csv", [("1", "2")], ("a", "b"))])
    with pytest.raises(JudgeError, match="cannot read ratings"):
        read_ratings([tmp_path / "nowhere.csv"])
    good = written(tmp_path / "good.csv", [row()])
    with pytest.raises(JudgeError, match="rate the same picture"):
        read_ratings([good, good])


@pytest.fixture
def folders(tmp_path):
    """Three cats and a dog, before and after, as pictures with prompts."""
    prompts = ["a cat", "two cats on a cat tree", "cat", "a dog"]
    sides = []
    for side, images in (("before", pictures(4)), ("after", pictures(4, seed=1))):
        (tmp_path / side).mkdir()
        for i, image in enumerate(images):
            image.save(tmp_path / side / f"{i}.png")
        sides.append([Drawn(tmp_path / side / f"{i}.png", p, i) for i, p in enumerate(prompts)])
    return sides


def page_of(folders, path):
    before, after = folders
    pairs = asking_pairs(after, before, "cat")
    write_rating_page([(a.prompt, b.path, a.path) for a, b in pairs], "cat", path)
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', path.read_text())[1])


def test_the_page_shows_what_asks_for_the_concept_and_not_which_is_which(folders, tmp_path):
    data = page_of(folders, tmp_path / "a.html")
    before, after = folders
    ids = {side: {picture_id(Image.open(p.path)) for p in drawn[:3]} for side, drawn in zip("ba", folders, strict=True)}
    assert len(data["pairs"]) == 3
    assert {p["id"] for pair in data["pairs"] for p in pair["pictures"]} == ids["a"] | ids["b"]
    assert page_of(folders, tmp_path / "b.html") == data
    text = (tmp_path / "a.html").read_text()
    assert "before" not in re.sub(r"const before|before\.|before :", "", text)
    many = [f"{i}" for i in range(60)]
    write_rating_page([(n, before[0].path, after[0].path) for n in many], "cat", tmp_path / "c.html")
    data = json.loads(re.search(r'id="data">(.*?)</script>', (tmp_path / "c.html").read_text())[1])
    first = [pair["pictures"][0]["id"] == picture_id(Image.open(before[0].path)) for pair in data["pairs"]]
    assert 15 < sum(first) < 45  # either model stands on either side


def test_ratings_judge_as_any_judge(folders, tmp_path):
    pytest.importorskip("krippendorff")
    before, after = folders
    images = [Image.open(p.path) for p in (*before[:3], *after[:3])]
    raters = Raters(ratings(images, {"a": [1, 1, 1, 0, 0, 1], "b": [1, 1, 0, 0, 0, 1]}))
    result = judge_pictures(after, ["cat"], before=before, judge=raters).result
    assert result.protocol_summary["judge"] == "2 raters (a, b)"
    assert result.metrics["ua"]["value"] == pytest.approx(2 / 3)
    assert result.metrics["ua_relative"]["value"] == pytest.approx(2 / 3)
    assert result.metrics["agreement"]["n"] == 6
    with pytest.raises(JudgeError, match="3 pictures of 3 were rated by nobody"):
        judge_pictures(after, ["cat"], judge=Raters(ratings(images[:3], {"a": [1, 1, 1]})))
    with pytest.raises(JudgeError, match="cannot see 'dog'"):
        judge_pictures(after, ["dog"], judge=raters)
