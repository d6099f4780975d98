"""The report: self-contained, escaped, complete."""

from __future__ import annotations

import re

from PIL import Image

from excise.report.html import Heat, MetricRow, Page, Pair, Section, data_uri, write


def page(name: str = "cat") -> Page:
    image = Image.new("RGB", (64, 64), "red")
    estimate = {"value": 0.985, "low": 0.9, "high": 1.0, "n": 240}
    section = Section(
        title=name,
        summary=f"about {name}",
        targets=[Pair(f"a {name}", image, image, "judge: dog")],
        retained=[Pair("a dog", image, image)],
        metrics=[MetricRow("UA", "share", estimate, None)],
        heats=[Heat("after", ["cat"], ["plain", "neon"], [["both", "neither"]])],
        became={"dog": 3, "none": 1},
        record={"method": "speed", "concepts": [name]},
        commands=[("undo", "excise generate")],
    )
    return Page(f"Without {name}", "lead", [section], [("judge", name)])


def test_page_is_one_file_without_script_or_outside_links(tmp_path):
    text = write(page(), tmp_path / "r.html").read_text()
    assert "<script" not in text
    assert not re.findall(r'(?:src|href)="(?!data:)', text)
    assert "http" not in text.replace("http-equiv", "")
    assert 'name="viewport"' in text
    assert "prefers-color-scheme: dark" in text
    assert text.count("data:image/webp;base64,") == 4
    for part in ("98.5 %", "90.0–100.0", "judge: dog", "excise generate", "no known label"):
        assert part in text


def test_names_are_escaped_everywhere(tmp_path):
    evil = '<img src=x onerror="alert(1)">'
    text = write(page(evil), tmp_path / "r.html").read_text()
    assert "<img src=x" not in text
    assert 'onerror="alert' not in text


def test_small_images_are_lossless():
    import base64
    import io

    image = Image.effect_noise((64, 64), 80).convert("RGB")
    raw = base64.b64decode(data_uri(image).split(",")[1])
    assert Image.open(io.BytesIO(raw)).convert("RGB").tobytes() == image.tobytes()
