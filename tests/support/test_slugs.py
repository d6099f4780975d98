"""Names of files from any words are safe, short and stay as they are."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from excise.support.slugs import slug


@given(st.text(), st.integers(1, 60))
def test_any_text_gives_a_safe_name_that_is_its_own_slug(text, most):
    name = slug(text, most)
    assert re.fullmatch(r"(?:[a-z0-9]+(?:-[a-z0-9]+)*)?", name)
    assert len(name) <= most
    assert slug(name, most) == name


def test_a_long_text_is_cut_at_a_word():
    assert slug("a painting of a cat in the style of Van Gogh", 30) == "a-painting-of-a-cat-in-the"
