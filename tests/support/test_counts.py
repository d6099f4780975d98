"""Numbers of things are said in the singular after one, everywhere by one helper."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import excise
from excise.support.counts import agreeing, counted

SOURCES = sorted(Path(excise.__file__).parent.rglob("*.py"))


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0 images"), (1, "1 image"), (2, "2 images"), (12345, "12,345 images")]
)
def test_a_noun_agrees_with_its_number(number, text):
    assert counted(number, "image") == text
    assert agreeing(number, "passes", "pass") == ("passes" if number == 1 else "pass")


def test_no_other_place_makes_plurals():
    by_hand = re.compile(r"""['"]{2} if .+ == 1 else ['"]e?s['"]""")
    found = [
        f"{p.name}:{n}" for p in SOURCES for n, line in enumerate(p.read_text().splitlines(), 1) if by_hand.search(line)
    ]
    assert found == []
