"""How objects show themselves: five lines in a terminal, escaped HTML with thumbnails in a notebook."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from excise.support.display import LINES, PICTURES, WIDTH, Card, Picture, as_html, as_text

ONE_LINE = st.text(max_size=200)


@given(ONE_LINE, st.lists(st.tuples(ONE_LINE, ONE_LINE), max_size=9))
def test_a_card_is_never_more_than_five_lines(title, facts):
    lines = as_text(Card(title, facts)).split("\n")
    assert len(lines) <= LINES
    assert all(len(line) <= WIDTH for line in lines)


def test_everything_in_html_is_escaped():
    evil = "<script>alert('x')</script>"
    picture = Picture(Image.new("RGB", (8, 8)), evil)
    card = Card(evil, [(evil, evil)], [evil], [[evil]], [(evil, [picture])])
    text = as_html(card)
    assert "<script" not in text
    assert text.count("&lt;script&gt;") == 8


def test_pictures_are_small_few_and_marked_by_their_verdict():
    red, green = (Picture(Image.new("RGB", (900, 300)), "a cat", mark) for mark in (True, False))
    text = as_html(Card("t", pictures=[("row", [red, green] * 20), ("empty", [])]))
    assert text.count("data:image/png;base64,") == PICTURES
    assert "empty" not in text
    assert "solid #" in text
    assert "dotted #" in text  # a verdict is not told by colour alone
    assert text.count("<figcaption") == text.count(">● a cat") + text.count(">○ a cat")
    assert len(text) < 40_000


def test_a_card_takes_the_colours_of_the_notebook():
    """Words and backgrounds are those of the page, so that a dark notebook shows them on dark."""
    picture = Picture(Image.new("RGB", (8, 8)), "a", True)
    text = as_html(Card("t", [("a", "b")], ["c"], [["d"]], [("row", [picture])]))
    styles = " ".join(part.split('"')[0] for part in text.split('style="')[1:])
    assert "color" not in styles
    assert "background" not in styles
