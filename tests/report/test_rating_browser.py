"""The rating page in a real browser: from the first pair to the saved file, by keys and by taps."""

from __future__ import annotations

import numpy as np
import pytest
from browsing import LOOKS, launched, visited
from PIL import Image

from excise.judges.raters import picture_id, read_ratings
from excise.report.rating_page import write_rating_page


@pytest.fixture(scope="module")
def browser():
    with launched() as opened:
        yield opened


@pytest.fixture(scope="module")
def red(tmp_path_factory):
    """A page of four pairs of a red and a blue picture, and the ids of the red ones."""
    folder = tmp_path_factory.mktemp("rating")
    rng, pairs, ids = np.random.default_rng(0), [], set()
    for i in range(4):
        files = []
        for channel in (0, 2):
            pixels = rng.integers(0, 60, (64, 64, 3), dtype=np.uint8)
            pixels[..., channel] += 180
            files.append(folder / f"{i}-{channel}.png")
            Image.fromarray(pixels).save(files[-1])
        ids.add(picture_id(Image.open(files[0])))
        pairs.append((f"prompt {i}", *files))
    return write_rating_page(pairs, "</script>red & 'blue'", folder / "rate.html"), ids


@pytest.fixture(params=LOOKS, ids="-".join)
def page(request, browser, red):
    with visited(browser, red[0], request.param, request.node.name) as opened:
        yield opened


def reds(page):
    """The key that says which pictures are red, by a look at the page's own pixels."""
    look = """(id) => { const i = document.getElementById(id), c = document.createElement('canvas');
      c.width = c.height = 8; const x = c.getContext('2d'); x.drawImage(i, 0, 0, 8, 8);
      const d = x.getImageData(4, 4, 1, 1).data; return d[0] > d[2]; }"""
    for side in ("left", "right"):
        page.wait_for_function(f"document.getElementById('{side}').complete")
    return page.evaluate(look, "left") + 2 * page.evaluate(look, "right")


def test_from_the_first_pair_to_the_saved_file(page, red, tmp_path):
    page.fill("#name", "A. B.")
    page.keyboard.press("Enter")
    assert page.is_visible("#rate")
    page.keyboard.press("3")  # a mistake
    page.keyboard.press("Backspace")
    assert "Pair 1 of 4" in page.inner_text("#where")
    assert page.get_attribute("[data-answer='3']", "aria-pressed") == "true"
    for i in range(4):
        answer = str(reds(page))
        page.keyboard.press(answer) if i % 2 else page.click(f"[data-answer='{answer}']")
    assert page.is_visible("#end")
    with page.expect_download() as download:
        page.keyboard.press("Enter")
    download.value.save_as(tmp_path / "r.csv")
    assert download.value.suggested_filename == "ratings-A-B-.csv"
    raters = read_ratings([tmp_path / "r.csv"])
    assert raters.raters == ["A. B."]
    assert len(raters.answers) == 8
    assert {p for p, one in raters.answers.items() if one["A. B."] == [True]} == red[1]


def test_it_fits_the_screen(page):
    page.fill("#name", "A")
    page.keyboard.press("Enter")
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    bottom = page.evaluate("document.querySelector('[data-answer=\"0\"]').getBoundingClientRect().bottom")
    assert bottom <= page.viewport_size["height"]


def test_it_goes_on_where_it_was_left(browser, red):
    context = browser.new_context()
    page = context.new_page()
    for visit in (1, 3):
        page.goto(red[0].as_uri())
        page.fill("#name", "A")
        page.keyboard.press("Enter")
        assert f"Pair {visit} of 4" in page.inner_text("#where")
        page.keyboard.press("1")
        page.keyboard.press("0")
    context.close()
