"""The bench page in a real browser: it sorts, filters, enlarges, and fits a phone."""

from __future__ import annotations

import pytest
from bench_data import bench
from browsing import LOOKS, launched, visited

from excise.report import bench_page

MEANS = "table.results >> nth=0"


@pytest.fixture(scope="module")
def browser():
    with launched() as opened:
        yield opened


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    out = tmp_path_factory.mktemp("bench")
    done = bench(out, concepts=("cat", "neon", "castle"))
    about = bench_page.About(
        name="a bench", date="2026-01-02", commands=bench_page.commands(done, "excise bench x.yaml")
    )
    return bench_page.write(done, out, out / "report.html", about)


@pytest.fixture(params=LOOKS, ids="-".join)
def page(request, browser, file):
    with visited(browser, file, request.param, request.node.name) as opened:
        yield opened


def column(page, head: str) -> list[str]:
    """What a column of the first table is sorted by, from top to bottom."""
    heads = page.locator(f"{MEANS} >> thead th")
    at = heads.all_inner_texts().index(head)
    return page.locator(f"{MEANS} >> tbody tr").evaluate_all(
        "(rows, at) => rows.map(row => row.cells[at].dataset.sort)", at
    )


def press(page, head: str, key: str | None = None) -> None:
    button = page.locator(MEANS).get_by_role("button", name=head, exact=True)
    button.press(key) if key else button.click()


def test_fits_without_sideways_scrolling(page):
    wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert wide <= 0
    box = page.locator(".scroll.tall").first
    assert box.evaluate("e => getComputedStyle(e).overflowX") == "auto"


def test_a_click_or_a_key_on_a_header_sorts(page):
    head = page.locator(f"{MEANS} >> thead th >> nth=2")
    assert head.get_attribute("aria-sort") == "none"
    press(page, "UA")
    values = [float(v) for v in column(page, "UA")]
    assert values == sorted(values, reverse=True)
    assert head.get_attribute("aria-sort") == "descending"
    press(page, "UA", "Enter")
    values = [float(v) for v in column(page, "UA")]
    assert values == sorted(values)
    assert head.get_attribute("aria-sort") == "ascending"
    press(page, "method")
    assert column(page, "method") == sorted(column(page, "method"), key=str.lower)
    assert head.get_attribute("aria-sort") == "none"


def test_missing_figures_stay_last(page):
    for _ in range(2):
        press(page, "FADE forget")
        values = column(page, "FADE forget")
        assert values[-1] == ""
        assert values.count("") == 1


def test_one_concept_at_a_time(page):
    shown = page.locator(".concept:visible h3")
    assert shown.all_inner_texts() == ["cat"]
    page.get_by_label("Show").select_option(label="castle")
    assert shown.all_inner_texts() == ["castle"]
    assert page.locator(".concept:visible .shots img").count() == 2 * 6 * 6
    page.get_by_label("Show").select_option("all")
    assert shown.all_inner_texts() == ["cat", "neon", "castle"]


def test_a_picture_opens_large_and_closes(page):
    dialog = page.locator("dialog")
    picture = page.locator(".concept:visible .shots button").first
    for close in ("button", "Escape", "backdrop"):
        picture.click()
        assert dialog.is_visible()
        assert "The judge saw:" in dialog.inner_text()
        assert dialog.locator("img").evaluate("e => e.naturalWidth") == 64
        if close == "button":
            dialog.get_by_role("button", name="close").click()
        elif close == "Escape":
            page.keyboard.press("Escape")
        else:
            page.mouse.click(3, 3)
        assert not dialog.is_visible()


def test_words_stand_out_from_what_is_behind_them(page):
    """WCAG contrast of body text, soft text and links on the page, at least 4.5."""
    found = page.evaluate(
        """() => {
          const light = c => { const v = c.match(/[\\d.]+/g).slice(0, 3).map(x => x / 255)
            .map(x => x <= .03928 ? x / 12.92 : ((x + .055) / 1.055) ** 2.4);
            return .2126 * v[0] + .7152 * v[1] + .0722 * v[2]; };
          const paper = light(getComputedStyle(document.body).backgroundColor);
          return ["body", ".soft", "summary", ".results small", ".badge"].map(s => {
            const ink = light(getComputedStyle(document.querySelector(s)).color);
            return (Math.max(ink, paper) + .05) / (Math.min(ink, paper) + .05); });
        }"""
    )
    assert min(found) >= 4.5


def test_it_can_be_read_without_script(browser, file):
    context = browser.new_context(java_script_enabled=False, viewport={"width": 390, "height": 844})
    page = context.new_page()
    page.goto(file.as_uri())
    assert page.locator(".concept:visible").count() == 3
    assert not page.locator("select").is_visible()
    assert not page.locator("dialog").is_visible()
    assert page.locator("table.results button").count() == 0
    context.close()
