"""excise generate: prompts from files, negative prompts and sizes."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def draw(excise, model):
    """Run the command on a tiny model with two steps; returns (status, the document of --json or None, stderr)."""

    def call(*words):
        status, out, err = excise("generate", "--model", model, "--steps", 2, "--json", *words)
        return status, json.loads(out) if status == 0 else None, err

    return call


def listed(document):
    return [(i["prompt"], i["seed"]) for i in document["images"]]


def pixels(document):
    return [np.asarray(Image.open(i["file"])) for i in document["images"]]


def test_prompts_and_seeds_come_from_a_file(draw, tmp_path):
    (tmp_path / "p.csv").write_text("prompt,seed,group\na cat,7,x\na dog,,y\n")
    (tmp_path / "p.txt").write_text("a tree, tall\n\na house\n")
    status, document, err = draw("--prompts", tmp_path / "p.csv", "-p", "a car", "--seed", 3, "--out", tmp_path / "a")
    assert status == 0, err
    assert listed(document) == [("a car", 3), ("a cat", 7), ("a dog", 3)]
    status, document, _ = draw("--prompts", tmp_path / "p.txt", "--count", 2, "--out", tmp_path / "b")
    assert listed(document) == [("a tree, tall", 0), ("a tree, tall", 1), ("a house", 0), ("a house", 1)]


def test_a_longer_file_draws_only_what_is_new(draw, tmp_path):
    file, out = tmp_path / "p.csv", tmp_path / "a"
    file.write_text("prompt,seed\na cat,1\n")
    _, document, _ = draw("--prompts", file, "--out", out)
    (first,) = pixels(document)
    Image.new("RGB", (8, 8)).save(document["images"][0]["file"])  # drawn again it would be another
    file.write_text("prompt,seed\na cat,1\na dog,2\n")
    status, document, err = draw("--prompts", file, "--out", out)
    assert status == 0, err
    assert listed(document) == [("a cat", 1), ("a dog", 2)]
    assert [p.shape for p in pixels(document)] == [(8, 8, 3), first.shape]


def test_a_negative_prompt_and_a_size_change_the_picture(draw, model, tmp_path):
    words = ("-p", "a cat", "--guidance", 5)
    (plain,) = pixels(draw(*words, "--out", tmp_path / "a")[1])
    (other,) = pixels(draw(*words, "--negative", "a dog", "--out", tmp_path / "b")[1])
    (wide,) = pixels(draw(*words, "--width", 2 * plain.shape[1], "--out", tmp_path / "c")[1])
    assert other.shape == plain.shape
    assert (other != plain).any()
    assert wide.shape == (plain.shape[0], 2 * plain.shape[1], 3)


def test_the_negative_prompt_is_that_of_the_stock_pipeline(any_pipe):
    from excise.families import family_of

    family = family_of(any_pipe)
    if not family.guides:
        pytest.skip("it is distilled")
    (drawn,) = next(family.batches([[("a cat", 3)]], steps=2, guidance=5.0, negative="a dog"))
    negative = family.condition(["a dog"])
    (by_hand,) = family.render(family.condition(["a cat"]), negative, [3], steps=2, guidance=5.0)
    assert np.array_equal(np.asarray(drawn), np.asarray(by_hand))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "there is nothing to draw; give --prompt"),
        (("-p", " "), "a prompt is empty"),
        (("--prompts", "nowhere.csv"), "cannot read prompts from nowhere.csv"),
        (("-p", "a cat", "--width", 33), r"does not draw 33 x \d+"),
    ],
)
def test_what_cannot_be_drawn_is_refused_and_leaves_nothing(draw, tmp_path, words, message):
    status, _, err = draw(*words, "--out", tmp_path / "out")
    assert status == 2
    import re

    assert re.search(message, err)
    assert not (tmp_path / "out").exists()
