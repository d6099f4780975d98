"""Result lines as Markdown and CSV: every figure with its interval, and never two protocols in one table."""

from __future__ import annotations

import csv
import io
import subprocess
import sys

import pytest

from excise.bench import tables
from excise.evaluation.catalog import Prominence, interval, number
from excise.protocols.base import IncomparableError


def rate(value: float, low: float, high: float, n: int = 10) -> dict[str, float]:
    return {"value": value, "low": low, "high": high, "n": n}


def line(method: str = "speed", concept: str = "cat", ua: float = 0.9, **more) -> dict:
    return {
        "model": "canvas-sd",
        "method": method,
        "concepts": [concept],
        "seed": 0,
        "protocol": "canvas-mini",
        "hash": "abc",
        "protocol_summary": {"steps": 12},
        "metrics": {"ua": rate(ua, ua - 0.1, ua + 0.05), "kid": rate(0.02, 0.01, 0.03)},
        "seconds": {"draw": 40.0, "judge": 2.0},
        "edit_bytes": 210_000,
        **more,
    }


LINES = [line(), line(concept="dog", ua=0.7), line("identity", ua=0.1, edit_bytes=0)]


def test_markdown_has_every_figure_with_its_interval():
    text = tables.to_markdown(LINES)
    assert "Protocol canvas-mini, hash abc" in text
    assert "| speed | cat | 90.0 (80.0–95.0; 10) | 0.0200 (0.0100–0.0300; 10) | 42.0 | 40.0 | 210 kB |" in text
    assert "| identity (control) | cat | 10.0 (0.0–15.0; 10) | 0.0200 (0.0100–0.0300; 10) | 42.0 | 40.0 | – |" in text
    assert "| speed | mean of 2 | 80.0 (72.9–83.5; 20) |" in text
    rows = [row for row in text.splitlines() if row.startswith("|")]
    assert all(row.count("|") == rows[0].count("|") for row in rows)


def test_a_mean_is_no_tighter_than_square_and_add_and_no_confidence_is_made_of_a_spread():
    both = [rate(1.0, 0.72, 1.0), rate(1.0, 0.72, 1.0)]
    found = tables.mean(both)
    assert found == {"value": 1.0, "low": pytest.approx(1 - 0.28 / 2**0.5), "high": 1.0, "n": 20}
    assert tables.mean(both, spread=True)["low"] == pytest.approx(0.72)
    assert tables.mean([{"value": 2.0}, {"value": 4.0}]) == {"value": 3.0}


def test_protocols_of_classes_and_of_captions_show_their_main_metric():
    """In the tables and in the means that a command prints."""
    classes = line(metrics={"accuracy": rate(0.8, 0.7, 0.9), "acc_e": rate(0.1, 0.0, 0.2)})
    captions = line(metrics={"clip_score": rate(31.42, 30.0, 32.0)})
    for one, label, cell in (
        (classes, "accuracy", "80.0 (70.0–90.0; 10)"),
        (captions, "CLIP score", "31.420 (30.000–32.000; 10)"),
    ):
        text = tables.to_markdown([one])
        assert f"| {label} |" in text
        assert cell in text
        printed = tables.columns(tables.rows([one]), Prominence.TERMINAL)
        assert label in [metric.label for metric in printed]


def test_csv_has_a_row_a_line_and_reads_back():
    rows = list(csv.DictReader(io.StringIO(tables.to_csv(LINES))))
    assert [r["method"] for r in rows] == ["speed", "speed", "identity"]
    assert (rows[0]["ua"], rows[0]["ua_low"], rows[0]["ua_n"]) == ("0.9", "0.8", "10")
    assert rows[0]["seconds"] == "42.0"
    assert (rows[2]["control"], rows[2]["edit_bytes"]) == ("identity", "")
    assert "seconds_low" not in rows[0]


def test_seconds_of_solving_and_of_drawing_are_figures_of_their_own():
    lines = [line(seconds={"erase": 3.0, "draw": 40.0, "judge": 2.0, "untouched": 41.0}), line(concept="dog")]
    (row,) = tables.means(tables.rows(lines))
    assert row.figures["seconds_solving"] == {"value": 3.0}
    assert row.figures["seconds_drawing"] == {"value": 40.0}
    assert row.figures["seconds"] == {"value": (86.0 + 42.0) / 2}
    assert "| solving | drawing |" in tables.to_markdown(lines)
    assert next(csv.DictReader(io.StringIO(tables.to_csv(lines))))["seconds_solving"] == "3.0"


def test_latex_has_the_figures_of_markdown_and_escapes_names():
    text = tables.to_latex([*LINES, line("50%_off & more", concept="$x^2_\\")])
    assert r"speed & cat & 90.0 (80.0--95.0) & 0.0200 (0.0100--0.0300) & 42.0 & 40.0 & 210 kB \\" in text
    assert r"50\%\_off \& more" in text
    assert r"\$x\textasciicircum{}2\_\textbackslash{}" in text
    assert text.count(r"\begin{tabular}{ll") == text.count(r"\end{tabular}") == 2
    body = [row for row in text.splitlines() if row.endswith(r"\\")]
    assert len({row.count(" & ") for row in body}) == 1
    assert tables.to_latex([]) == "% No results.\n"


def test_different_protocols_are_refused():
    other = line(hash="def", protocol="canvas-full", protocol_summary={"steps": 50})
    for table in (tables.to_markdown, tables.to_csv, tables.to_latex):
        with pytest.raises(IncomparableError, match="steps: 12 and 50"):
            table([line(), other])


def test_names_are_escaped_and_controls_known_by_name_where_they_have_a_label():
    text = tables.to_markdown([line("a|b\n<i>", concept="x|y")])
    assert "a\\|b &lt;i>" in text
    assert "x\\|y" in text
    assert tables.control_of(line("untouched model", name="identity")) == "identity"
    assert tables.control_of(line("speed")) == ""


def test_several_seeds_and_models_are_told_apart():
    text = tables.to_markdown([line(), line(seed=1), line(model="other")])
    assert "| speed | canvas-sd | cat, seed 1 |" in text
    assert "| speed | other | cat, seed 0 |" in text
    assert "| speed | canvas-sd | mean of 2 |" in text


def test_nothing_at_all():
    assert tables.to_markdown([]) == "No results.\n"
    assert tables.to_csv([]).startswith("protocol,hash,model")


def test_zero_has_no_minus():
    assert number(-1e-18, "rate") == "0.0"
    assert interval(rate(0.0, -0.001, 0.001), "number") == "-0.0010 to 0.0010"


def test_no_torch_is_needed():
    code = "import sys, excise.bench.tables; assert not {'torch', 'numpy'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
