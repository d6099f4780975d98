"""The bench page: one file, escaped, complete, and the same whatever order its cells come in."""

from __future__ import annotations

import html
import random
import re
from dataclasses import replace

import pytest
from bench_data import bench, cell

from excise.bench.tables import Row
from excise.protocols.base import asks
from excise.report import bench_attacks, bench_page, bench_plots
from excise.report.bench_concepts import is_retained, targets
from excise.report.bench_html import Name
from excise.report.bench_pairs import PairedTests
from excise.report.bench_plots import Mark

EVIL = '<img src=x onerror="alert(1)">'


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("bench")


@pytest.fixture(scope="module")
def done(out):
    return bench(out, concepts=("cat", "neon"))


@pytest.fixture(scope="module")
def text(out, done):
    key = done[2].cell.key
    about = bench_page.About(
        name="canvas-closed-form",
        date="2026-01-02",
        recipe="schema: 1\nname: canvas-closed-form\n",
        commands=bench_page.commands(done, "excise bench recipe.yaml --out runs/b"),
        versions=[("torch", "2.13.0")],
        sequences={
            key: {"targets": ["cat", "dog"], "matrix": [[0.98, None], [0.9, 0.97]], "rebound": [0.08, 0.0]},
        },
    )
    return bench_page.write(done, out, out / "report.html", about).read_text()


def rows(text: str) -> dict[tuple[str, str], str]:
    """Table rows by method and concepts, with the values they are sorted by."""
    found = re.findall(
        r'<tr[^>]*><th scope="row" data-sort="([^"]*)">.*?<td class="concepts" data-sort="([^"]*)">(.*?)</tr>',
        text,
        re.S,
    )
    return {(m, c): ",".join(re.findall(r'data-sort="([^"]*)"', rest)) for m, c, rest in found}


def test_page_is_one_file_without_outside_links(text):
    assert not re.findall(r'(?:src|href)="(?!data:)', text)
    assert "http" not in text.replace("http-equiv", "")
    assert text.count("<script") == 1
    assert re.search(r"default-src 'none'; img-src data:; .*script-src 'sha256-[\w+/=]+'", text)
    assert 'name="viewport"' in text
    assert "prefers-color-scheme: dark" in text
    assert "@media print" in text


def test_everything_is_on_it(text):
    for part in (
        "canvas-closed-form", "2026-01-02", "13, 3,120 images judged", "4 methods (speed, uce, scapre, surgun)",
        "UA", "worst IRA", "FADE forget", "edit size", "p against speed", "the reference", "1 of 2", "all 2",
        "Pareto front", "Every object in every style", "What the target prompts show now", "Damage by distance to cat",
        "One after another: speed", "rebound", "The prompt asks for the target: it should be gone", "canvas-judge-a",
        "excise bench recipe.yaml", "excise erase --model canvas-sd --concept cat --method speed",
        "schema: 1", "2.13.0", "f8f3d74fd4b5a325",
    ):  # fmt: skip
        assert html.escape(part, quote=False) in text, part
    assert text.count('<tr class="control">') == 3 + 5  # identity, noise and one oracle: means, then every concept
    assert text.count('class="badge"') >= 8


def test_gallery_has_the_same_prompts_for_every_method(text):
    first = text[text.index('id="p0-c0"') : text.index('id="p0-c1"')]
    assert first.count("<img ") == 2 * 6 * 7
    assert first.count('alt="uce: a picture of a cat in plain style, seed ') == 1
    assert first.count('alt="speed: a picture of a cat in plain style, seed ') == 1
    assert "data:image/webp;base64," in first


def test_intervals_and_n_stand_beneath(text, done):
    ua = done[0].result.metrics["ua"]
    assert f"{100 * ua['low']:.1f}–{100 * ua['high']:.1f}</small><small>n {ua['n']:.0f}<" in text


def test_order_of_cells_does_not_matter_to_what_rows_are_sorted_by(out, done, text, tmp_path):
    rest = done[3:]
    random.Random(1).shuffle(rest)
    again = bench_page.write([done[2], *rest, *done[:2]], out, tmp_path / "r.html").read_text()
    assert rows(again) == rows(text)
    assert len(rows(text)) == 7 + 13
    for values in rows(text).values():
        assert all(v == "" or float(v) == float(v) for v in values.split(","))


def test_names_are_escaped_everywhere(out, tmp_path):
    d = cell(out, "speed", "cat", label=EVIL)
    shown = [
        s.model_copy(update={"prompt": EVIL, "saw": dict.fromkeys(s.saw, EVIL)}) if s.asked["object"] == "cat" else s
        for s in d.result.shown
    ]
    planned = d.cell.model_copy(update={"concepts": (EVIL,), "model": EVIL})
    update = {
        "shown": shown,
        "concepts": [EVIL],
        "became": {EVIL: {EVIL: 3}},
        "neighbours": {EVIL: d.result.neighbours["cat"]},
    }
    evil = replace(d, cell=planned, result=d.result.model_copy(update=update))
    about = bench_page.About(
        name=EVIL, date=EVIL, recipe=EVIL, commands=[(EVIL, EVIL)], versions=[(EVIL, EVIL)],
        sequences={planned.key: {"targets": [EVIL], "matrix": [[1.0]], "rebound": [0.0]}},
    )  # fmt: skip
    text = bench_page.write([evil], out, tmp_path / "r.html", about).read_text()
    assert "<img src=x" not in text
    assert 'onerror="alert' not in text
    assert html.escape(EVIL).replace("&quot;", "&#34;") in text


def test_images_that_are_gone_or_damaged_leave_a_gap(out, tmp_path):
    d = cell(out, "speed", "cat")
    (tmp_path / "bad.png").write_bytes(b"no image")
    broken = replace(d, images=["none.png"] * 120 + ["bad.png"] * 120)
    text = bench_page.write([broken], tmp_path, tmp_path / "r.html").read_text()
    assert text.count("no image") == 12
    assert text.count("<img ") == 1  # the enlarged one


def test_targets_are_read_off_concepts_and_prompts(done):
    result = done[0].result
    wanted = targets(result)
    assert wanted == [("object", "cat")]
    assert sum(asks(s.asked, wanted) for s in result.shown) == 10
    assert sum(is_retained(s, wanted) for s in result.shown) == 230
    pair = targets(result.model_copy(update={"concepts": ["cat in neon style"]}))
    assert pair == [("pair", "cat in neon style")]
    assert sum(asks(s.asked, pair) for s in result.shown) == 1
    assert targets(result.model_copy(update={"concepts": ["unknown", "cat in a box"]})) == []


def test_paired_test_is_against_the_first_method_that_is_no_control(done):
    tests = PairedTests(done)
    assert tests.label == "speed"
    by_method = {d.cell.method.name: tests.of_cell(d) for d in done[:7]}
    assert by_method["speed"].details == ["the reference"]
    assert float(by_method["noise"].sort) < 1e-6
    assert by_method["identity"].details[-1] == "n 230"
    same = [cell_like(done[2], "speed again"), done[2]]
    assert PairedTests([done[2], *same[:1]]).of_cell(same[0]).text == "1.000"


def cell_like(d, label):
    method = d.cell.method.model_copy(update={"label": label})
    return replace(d, cell=d.cell.model_copy(update={"method": method}))


def mark(label, erase, retain, control=False):
    def figure(v):
        return {"value": v, "low": v - 0.02, "high": min(1.0, v + 0.02), "n": 10}

    return Mark(label, control, figure(erase), figure(retain))


def test_pareto_front_leaves_out_controls_and_the_dominated():
    marks = [
        mark("a", 0.9, 0.8), mark("b", 0.8, 0.9), mark("c", 0.8, 0.8), mark("d", 0.9, 0.7),
        mark("oracle", 1.0, 1.0, control=True),
    ]  # fmt: skip
    assert [m.label for m in bench_plots.front(marks)] == ["b", "a"]
    assert bench_plots.front(marks[-1:]) == []


def test_labels_stay_in_the_drawing_and_off_each_other():
    marks = [mark(f"method-{i}", 0.95 + i / 200, 0.97 - i / 300) for i in range(6)]
    for plot in bench_plots.plots(marks, "x", "y"):
        boxes = []
        for p in plot.points:
            width = bench_plots.LETTER * len(p.label)
            left = p.label_x - (width if p.anchor == "end" else 0)
            assert left >= 0
            assert left + width <= plot.width
            boxes.append((left, p.label_y - 11, left + width, p.label_y + 3))
        for i, a in enumerate(boxes):
            assert not any(bench_plots.overlap(a, b) for b in boxes[i + 1 :])


def test_names_protocols_turn_acc_e_round():
    figures = {
        "acc_e": {"value": 0.1, "low": 0.05, "high": 0.2, "n": 5},
        "acc_r": {"value": 0.8, "low": 0.7, "high": 0.9, "n": 5},
    }
    erase, retain = bench_plots.axes(figures)
    assert erase == {"value": 0.9, "low": 0.8, "high": 0.95, "n": 5}
    assert retain["value"] == 0.8
    assert bench_plots.axes({"ua": figures["acc_e"]}) is None


def test_a_bench_of_two_protocols_and_two_models_keeps_them_apart(out, done, tmp_path):
    other = [replace(d, result=d.result.model_copy(update={"hash": "0" * 64, "protocol": "other"})) for d in done[:3]]
    model = [replace(d, cell=d.cell.model_copy(update={"model": "my-sd"})) for d in done[:3]]
    text = bench_page.write([*done[:3], *other, *model], out, tmp_path / "r.html").read_text()
    assert text.count("<h2 id=") == 2
    assert "Results on other" in text
    assert 'data-sort="speed">speed</th>' not in text.split("Results on other")[0]  # the model stands beneath the name
    assert "<small>my-sd</small>" in text


def attacked(d, back: float, oracle: float):
    """A cell under one attack that brought the target back on that share of prompts."""
    attack = {"name": EVIL, "access": "black box", "any_of_n": back, "control": 0.0, "oracle": oracle}
    gap = {"value": back - oracle, "low": 0.0, "high": 1.0, "n": 4}
    update = {"attacks": [attack], "metrics": {**d.result.metrics, "worst_gap": gap}}
    return replace(d, result=d.result.model_copy(update=update))


def test_attacks_are_a_table_and_a_triangle(out, done):
    cells = [attacked(d, 0.75, 0.25) for d in done if d.cell.method.title in ("speed", "uce")]
    (part,) = bench_page.page(cells, out, bench_page.About()).parts
    assert [t.name.text for t in part.triangles] == ["speed", "uce"]
    assert "withstands 50.0" in part.triangles[0].about
    table = part.tables[-1]
    assert [(line.name.text, line.concepts, line.cells[0].text) for line in table.rows] == [
        ("speed", "2", "75"),
        ("uce", "2", "75"),
    ]
    assert table.rows[0].cells[0].details == ["control 0", "oracle 25"]
    text = bench_page.write(cells, out, out / "attacked.html").read_text()
    assert "Erased, retained, and under attack" in text
    assert EVIL not in text
    assert not bench_page.page(done, out, bench_page.About()).parts[0].triangles


def test_a_triangle_reaches_its_frame_where_nothing_is_lost():
    row = Row("speed", "", "m", ("cat",), 0, 1, 1)
    row.figures.update({k: {"value": v, "low": v, "high": v, "n": 9} for k, v in
                        {"ua": 1.0, "ira": 1.0, "cra": 1.0, "worst_gap": -0.1}.items()})  # fmt: skip
    (found,) = bench_attacks.triangles([row], [Name("speed")])
    assert found.path == found.frame
    assert bench_attacks.triangles([replace(row, figures={})], [Name("speed")]) == []
