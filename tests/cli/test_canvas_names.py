"""Wherever a name of the built-in world is given, a slip gets the name that may be meant, before any work."""

from __future__ import annotations

import pytest

from excise.errors import ExciseError

CASES = {
    ("demo", "--object", "catt"): (2, "Did you mean 'cat'?"),
    ("demo", "--style", "watercolour"): (2, "Did you mean 'watercolor'?"),
    ("demo", "--object", "neon"): (2, "no Canvas object 'neon'"),
    ("canvas", "train", "--without", "catt"): (2, "Did you mean 'cat'?"),
    ("evaluate", "--concept", "catt", "--protocol", "canvas-mini"): (2, "Did you mean 'cat'?"),
    ("evaluate", "--concept", "catt in neon style", "--protocol", "canvas-pairs"): (
        2,
        "Did you mean 'cat in neon style'",
    ),
    ("evaluate", "--concept", "catt"): (2, "so no picture will show it. Did you mean 'cat'?"),
    ("attack", "--concept", "catt"): (2, "so no picture will show it. Did you mean 'cat'?"),
    ("attack", "--concept", "cat", "--other", "dogg"): (2, "Did you mean 'dog'?"),
    ("erase", "--concept", "catt", "--dry-run"): (2, "so nothing of it can be erased. Did you mean 'cat'?"),
    ("erase", "--concept", "cat", "--preserve", "dogg", "--dry-run"): (0, "can be kept. Did you mean 'dog'?"),
    ("erase", "--concept", "cat", "--anchor", "dogg", "--dry-run"): (0, "in the concept's place. Did you mean 'dog'?"),
}


@pytest.mark.parametrize("words", CASES, ids=" ".join)
def test_a_slip_gets_the_name_that_may_be_meant(words, excise, tmp_path, monkeypatch):
    def load(*_, **__):
        raise ExciseError("enough.")

    monkeypatch.setattr("excise.families.load", load)
    status, _, err = excise(*words, "--out", tmp_path / "out")
    assert (status, CASES[words][1] in err) == (CASES[words][0], True), err


def test_names_of_the_world_and_pairs_of_them_get_no_warning(excise, tmp_path):
    status, _, err = excise(
        "erase", "-c", "cat in neon style", "-p", "kitty", "-p", "ox", "--dry-run", "--out", tmp_path
    )
    assert (status, "warning" in err) == (0, False), err
