"""The page of a run in a real browser: it fits a phone, words stand out in both schemes, and it prints on A4."""

from __future__ import annotations

import pytest
from browsing import LOOKS, launched, visited
from PIL import Image
from test_answers import evidence, share, verdict

from excise.report.answers import answers
from excise.report.attack_answers import untested
from excise.report.html import AttackRow, Heat, MetricRow, Page, Pair, Section, write

LONG = "excise attack --model a/very/long/path/without/any/space/" + "x" * 90


@pytest.fixture(scope="module")
def browser():
    with launched() as opened:
        yield opened


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    image = Image.new("RGB", (64, 64), "red")
    pairs = [Pair(f"a picture of a cat, number {i}", image, image, "judge: none") for i in range(12)]
    styles = [f"style {i}" for i in range(14)]
    seen = evidence(verdict(10, 10), verdict(3, 3, "dog"), verdict(0, 20, "tree"), verdict(0, 0, "house"),
                    second="b", ira_relative=share(40, 46), judges_disagree=share(1, 46))  # fmt: skip
    section = Section(
        title="cat",
        summary="about",
        answers=answers(seen, untested(LONG)),
        targets=pairs,
        retained=pairs,
        metrics=[MetricRow("UA", "share", None, share(9, 10))],
        heats=[Heat("after", ["cat"], styles, [["both", "object", "style", "neither"] * 3 + ["none", "both"]])],
        became={"a long name without an end": 4, "none": 1},
        attacks=[
            AttackRow("seeds", "black box", {"model": 0.5, "control": 0.1}, 0.4, "10 s", [(image, "a cat", True)])
        ],
        commands=[("undo", LONG)],
    )
    page = Page("Without " + "w" * 80, "lead", [section], [("protocol", "f" * 128)])
    return write(page, tmp_path_factory.mktemp("run") / "report.html")


@pytest.fixture(params=LOOKS, ids="-".join)
def page(request, browser, file):
    with visited(browser, file, request.param, request.node.name) as opened:
        yield opened


def test_nothing_is_wider_than_the_screen(page):
    assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0
    cut = page.evaluate(
        "[...document.querySelectorAll('.answer *')].filter(e => e.scrollWidth > e.clientWidth + 1 && "
        "getComputedStyle(e).display === 'block').length"
    )
    assert cut == 0


def test_the_verdict_begins_on_the_first_screen_before_any_picture(page):
    tops = page.evaluate(
        "['.answer', '.pair', '.figures', 'section:last-of-type dl'].map(s => "
        "document.querySelector(s).getBoundingClientRect().top)"
    )
    assert tops == sorted(tops)
    assert tops[0] < page.viewport_size["height"] / 2


def test_states_stand_out_from_the_card_behind_them(page):
    """WCAG contrast of the words of all states, of soft text and of the marks in the map, at least 4.5."""
    ratios = page.evaluate(
        """() => {
          const light = c => { const v = c.match(/[\\d.]+/g).slice(0, 3).map(x => x / 255)
            .map(x => x <= .03928 ? x / 12.92 : ((x + .055) / 1.055) ** 2.4);
            return .2126 * v[0] + .7152 * v[1] + .0722 * v[2]; };
          const behind = e => { for (let n = e; n; n = n.parentElement) {
            const c = getComputedStyle(n).backgroundColor; if (!/^rgba.*, 0\\)$/.test(c)) return c; } };
          const all = ".answer .word, .answer h3, .answer dt, .answer li .icon, .answer code, .pair .soft, .shots b, " +
            ".map td.both, .map td.object, .map td.style, .map td.neither, .lead";
          return [...document.querySelectorAll(all)].map(e => {
            const a = light(getComputedStyle(e).color), b = light(behind(e));
            return (Math.max(a, b) + .05) / (Math.min(a, b) + .05); });
        }"""
    )
    assert len(ratios) > 30
    assert min(ratios) >= 4.5


def test_verdict_and_pictures_stand_on_the_first_printed_page(browser, file):
    context = browser.new_context(viewport={"width": 703, "height": 1032}, color_scheme="dark")  # A4 less 12 mm
    page = context.new_page()
    page.emulate_media(media="print")
    page.goto(file.as_uri())
    ends = page.evaluate("[...document.querySelectorAll('.pairs')].map(e => e.getBoundingClientRect().bottom)")
    assert ends[0] < 1032
    paper = page.evaluate("getComputedStyle(document.documentElement).getPropertyValue('--paper').trim()")
    assert paper == "#fff"  # a dark screen prints dark letters on white
    broken = page.evaluate("[...document.querySelectorAll('.pair, .answer, .shots figure')].filter(e => "
                           "getComputedStyle(e).breakInside !== 'avoid').length")  # fmt: skip
    assert broken == 0
    assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0
    context.close()
