"""The page of a run: one file, everything escaped, and each value in its place."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser

import pytest
from PIL import Image

from excise.report.curves import chart
from excise.report.html import (
    Answer,
    AttackRow,
    Block,
    BlockTable,
    Heat,
    MetricRow,
    Page,
    Pair,
    Section,
    data_uri,
    write,
)


class Reader(HTMLParser):
    """Reads table rows as lists of cell texts, cells' attributes, the texts of headings, and the images."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.cells: list[dict[str, str | None]] = []
        self.headings: list[str] = []
        self.images: list[str] = []
        self._into: list[str] | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.cells.append(dict(attrs))
            self._into = self.rows[-1]
            self._into.append("")
        elif tag in ("h1", "h2", "h3"):
            self._into = self.headings
            self._into.append("")
        elif tag == "img":
            self.images.append(str(dict(attrs)["alt"]))

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th", "h1", "h2", "h3"):
            self._into = None

    def handle_data(self, data: str) -> None:
        if self._into is not None:
            self._into[-1] += data

    def row(self, name: str) -> list[str]:
        """The cells after the first one of the row that begins with a name."""
        return next(row[1:] for row in self.rows if row and row[0] == name)


def page(name: str = "cat") -> Page:
    image = Image.new("RGB", (64, 64), "red")
    before, after = ({"value": v, "low": v - 0.08, "high": v + 0.01, "n": 240} for v in (0.2, 0.985))
    distance = {"value": 0.012, "low": -0.001, "high": 0.03, "n": 8}
    section = Section(
        title=name,
        summary=f"about {name}",
        targets=[Pair(f"a {name}", image, image, "judge: dog")],
        retained=[Pair("a dog", image, image)],
        metrics=[
            MetricRow("UA", "share", before, after),
            MetricRow("KID", "distance", None, distance, "number"),
            MetricRow("time", "duration", None, {"value": 3.2, "low": 3.0, "high": 4.0, "n": 2}, "seconds"),
        ],
        heats=[Heat("after", ["cat"], ["plain", "neon"], [["both", "neither"]])],
        became={"dog": 4, "none": 1},
        record={"method": "speed", "concepts": [name]},
        commands=[("undo", "excise generate")],
    )
    return Page(f"Without {name}", "lead", [section], [("judge", name)])


@pytest.fixture
def text(tmp_path):
    return write(page(), tmp_path / "r.html").read_text()


def test_page_is_one_file_without_script_or_outside_links(text):
    assert "<script" not in text
    assert not re.findall(r'(?:src|href)="(?!data:)', text)
    assert "http" not in text.replace("http-equiv", "")
    assert 'name="viewport"' in text
    assert "prefers-color-scheme: dark" in text
    assert text.count("data:image/webp;base64,") == 4
    assert "default-src 'none'" in text


def test_every_metric_has_its_values_in_their_columns_and_its_unit(text):
    reader = Reader(text)
    assert reader.rows[0] == ["metric", "before", "after", ""]
    assert reader.row("UA") == ["20.0 %12.0–21.0, n = 240", "98.5 %90.5–99.5, n = 240", "share"]
    assert reader.row("KID") == ["–", "0.0120-0.0010 to 0.0300, n = 8", "distance"]
    assert reader.row("time") == ["–", "3.2 s3.0–4.0, n = 2", "duration"]


def test_images_and_maps_stand_under_their_headings(text):
    reader = Reader(text)
    assert reader.headings == [
        "Without cat",
        "cat",
        "Prompts that ask for the concept: same seed, before and after",
        "Prompts that ask for something else: these should not change",
        "Figures",
        "What the target prompts show now",
        "Every object in every style",
        "Undo it, or ship it",
        "How these numbers were obtained",
    ]
    assert reader.images == ["before: a cat", "after: a cat", "before: a dog", "after: a dog"]
    cells = [c for c in reader.cells if c.get("title")]
    assert [(c["class"], c["title"]) for c in cells] == [
        ("both", "cat, plain: both"),
        ("neither", "cat, neon: neither"),
    ]


def test_the_panel_of_a_single_section_stands_first_in_words_and_shapes(tmp_path):
    """State is never told by colour alone: there is a word, and a shape of its own."""
    states = ("good", "warn", "bad", "open")
    panel = [
        Answer(
            f"Question {state}?", state, f"word {state}", "100 % of <it>", [("held to", "50 %")], [("a line", state)]
        )
        for state in states
    ]
    panel[3] = Answer("Question open?", "open", "word open", "text", advice="Advice.", command="excise attack")
    one = page().sections[0]
    one = Section(one.title, one.summary, panel, targets=one.targets)
    text = write(Page("A page", "lead", [one]), tmp_path / "r.html").read_text()
    headings = Reader(text).headings
    assert headings[1:5] == [f"Question {state}?" for state in states]
    assert headings[5].startswith("Prompts that ask")
    assert "100\N{NO-BREAK SPACE}% of &lt;it&gt;" in text
    shapes = dict(re.findall(r'<svg class="icon state (\w+)"[^>]*>(.*?)</svg>', text))
    assert len(set(shapes.values())) == len(states)
    assert all(f"<span>word {state}</span>" in text for state in states)
    assert "<code>excise attack</code>" in text
    two = write(Page("A page", "lead", [one, one]), tmp_path / "r.html").read_text()
    assert Reader(two).headings[1:3] == ["cat", "Question good?"]  # each panel under the name of its section


def test_bars_are_relative_to_the_longest(text):
    bar = r'<span>([^<]*)</span><div class="bar"><div style="width: ([\d.]+)%"></div></div><span>(\d+)'
    bars = re.findall(bar, text)
    assert bars == [("dog", "100.0", "4"), ("no known label", "25.0", "1")]


def test_what_is_missing_has_no_heading(tmp_path):
    text = write(Page("A page", "lead", [Section("cat", "about")]), tmp_path / "r.html").read_text()
    reader = Reader(text)
    assert reader.headings == ["A page", "cat"]
    assert reader.rows == []


def test_names_are_escaped_everywhere(tmp_path):
    evil = '<img src=x onerror="alert(1)">'
    text = write(page(evil), tmp_path / "r.html").read_text()
    assert "<img src=x" not in text
    assert 'onerror="alert' not in text
    assert Reader(text).headings[1] == evil


def test_blocks_charts_and_attacks(tmp_path):
    image = Image.new("RGB", (8, 8))
    lines = chart("Losses", [0, 1, 2], {"loss": [1.0, float("nan"), 0.5]}, chosen=2)
    section = Section(
        "cat",
        "about",
        curves=[lines],
        blocks=BlockTable("Blocks", "note", [Block("mid", 0.9, 0.75, True, [image]), Block("up", 0.1, 1.0, False)]),
        attacks=[AttackRow("swap", "white box", {"model": 0.5, "control": None, "oracle": 0.25}, 0.25, "10 s")],
    )
    reader = Reader(write(Page("A page", "lead", [section]), tmp_path / "r.html").read_text())
    assert reader.row("midtrained")[:2] == ["90.0 %", "75.0 %"]
    assert reader.row("up")[:2] == ["10.0 %", "100.0 %"]
    bars, gap, cost = reader.row("swapwhite box")
    assert re.sub(r"\s+", " ", bars).strip() == "model50.0 % oracle25.0 %"
    assert (gap, cost) == ("+25", "10 s")


def test_a_chart_scales_its_lines_and_leaves_gaps():
    drawn = chart("Losses", [0, 5, 10], {"loss": [2.0, float("nan"), 1.0]}, chosen=10)
    (line,) = drawn.lines
    left, top, right, bottom = drawn.frame
    assert line.points == f"{left:.1f},{top:.1f} {right:.1f},{(top + bottom) / 2:.1f}"
    assert drawn.chosen == right
    assert [t.label for t in drawn.x_ticks] == ["0", "2.5", "5", "7.5", "10"]
    assert chart("One step", [0], {"loss": [1.0]}).lines[0].points == f"{left:.1f},{top:.1f}"


def test_small_images_are_lossless_and_large_ones_are_not():
    for side, lossless in ((64, True), (256, False)):
        image = Image.effect_noise((side, side), 80).convert("RGB")
        raw = base64.b64decode(data_uri(image).split(",")[1])
        assert (Image.open(io.BytesIO(raw)).convert("RGB").tobytes() == image.tobytes()) == lossless
