"""I2P and sets of prompts that ask for nudity: files in the published layouts, and metrics against a naive count."""

from __future__ import annotations

import csv
import random

import pytest
from PIL import Image

from excise.errors import ConceptError
from excise.evaluation.evaluate import evaluate
from excise.evaluation.scoring import PART, Shown, became, score
from excise.judges.nudenet import Detection, NudeNet
from excise.metrics.unlearning import NONE
from excise.protocols import PROTOCOLS

LAYOUTS = {
    "i2p": (
        "i2p",
        [
            "prompt", "image", "categories", "hard", "inappropriate_percentage", "nudity_percentage", "q16_percentage",
            "sd_safety_percentage", "prompt_toxicity", "lexica_url", "sd_seed", "sd_guidance_scale", "sd_image_width",
            "sd_image_height", "sd_model",
        ],
        {"prompt": "a statue", "categories": "violence, sexual", "sd_seed": "7", "sd_guidance_scale": "12"},
        ("sexual", "a statue", 7),
    ),
    "a copy of i2p": (
        "i2p", ["case_number", "prompt", "evaluation_seed", "categories"],
        {"prompt": "a fight", "evaluation_seed": "8", "categories": "violence"}, ("violence", "a fight", 8),
    ),
    "unlearndiffatk": (
        "nudity", ["case_number", "prompt", "evaluation_seed", "evaluation_guidance"],
        {"prompt": "a bather", "evaluation_seed": "9"}, ("others", "a bather", 9),
    ),
    "ring-a-bell": (
        "nudity", ["", "sensitive prompt"], {"sensitive prompt": "xq bather zz"}, ("others", "xq bather zz", None),
    ),
    "mma-diffusion": (
        "nudity", ["target_prompt", "adv_prompt", "clean_prompt"],
        {"target_prompt": "a bather", "adv_prompt": "ba ther", "clean_prompt": "a lake"}, ("others", "ba ther", None),
    ),
}  # fmt: skip


@pytest.fixture
def listed(tmp_path, monkeypatch):
    """Write a file in a layout where its protocol looks for it, and return the protocol."""

    def write(layout, rows=1):
        name, columns, row, _ = LAYOUTS[layout]
        with (tmp_path / "p.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows([row] * rows)
        monkeypatch.setenv(f"EXCISE_{name.upper()}", str(tmp_path / "p.csv"))
        return PROTOCOLS.load(name)()

    return write


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_file_in_its_published_columns_is_read(listed, layout):
    group, prompt, seed = LAYOUTS[layout][3]
    plan = listed(layout, rows=2)
    first, second = plan.items
    assert (first.group, first.prompt, first.seed) == (group, prompt, seed)
    assert (first.index, second.index) == (0, 1)
    assert plan.fixed_targets == ("nudity",)


@pytest.mark.parametrize("name", ["i2p", "nudity"])
def test_a_missing_file_is_named_with_the_place_that_publishes_it(name, monkeypatch, tmp_path):
    variable = f"EXCISE_{name.upper()}"
    monkeypatch.delenv(variable, raising=False)
    with pytest.raises(ConceptError, match=rf"{variable} names none; it is published at"):
        PROTOCOLS.load(name)()
    (tmp_path / "p.csv").write_text("sentence,number\na,1\n")
    monkeypatch.setenv(variable, str(tmp_path / "p.csv"))
    with pytest.raises(ConceptError, match="no column 'prompt', but sentence, number. Known columns"):
        PROTOCOLS.load(name)()


def shown(prompt, parts):
    values = {"exposed_parts": float(sum(parts.values())), **{f"{PART}{k}": float(n) for k, n in parts.items()}}
    saw = "nudity" if values["exposed_parts"] else NONE
    return Shown(
        group="sexual", prompt=prompt, seed=0, asked={"concept": "nudity"}, saw={"concept": saw}, values=values
    )


def test_scores_are_plain_counts():
    rng = random.Random(0)
    images = [
        shown(f"prompt {i % 12}", {"FEET_EXPOSED": rng.choice([0, 0, 1]), "BELLY_EXPOSED": rng.choice([0, 0, 2])})
        for i in range(36)
    ]
    targets = [("concept", "nudity")]
    metrics = score("explicit", images, targets)
    bad = [s for s in images if s.values["exposed_parts"]]
    assert metrics["exposed_rate"].value == pytest.approx(len(bad) / 36)
    assert metrics["ua"].value == pytest.approx(1 - len(bad) / 36)
    assert metrics["exposed_prompts"].value == pytest.approx(len({s.prompt for s in bad}) / 12)
    assert metrics["exposed_parts"].value == sum(s.values["exposed_parts"] for s in images)
    assert metrics["exposed_parts"].low < metrics["exposed_parts"].value < metrics["exposed_parts"].high
    counts = became(images, targets)["nudity"]
    assert counts == {k: sum(int(s.values[f"{PART}{k}"]) for s in images) for k in counts}
    assert list(counts.values()) == sorted(counts.values(), reverse=True)


def test_parts_are_counted_from_the_threshold_on_and_only_those_that_count(monkeypatch):
    pytest.importorskip("nudenet")
    parts = [
        Detection("FEET_EXPOSED", 0.9, (0, 0, 1, 1)),
        Detection("BUTTOCKS_EXPOSED", 0.5, (0, 0, 1, 1)),
        Detection("BUTTOCKS_EXPOSED", 0.8, (0, 0, 1, 1)),
        Detection("BELLY_COVERED", 0.9, (0, 0, 1, 1)),
    ]
    image = [Image.new("RGB", (8, 8))]
    for judge, parts_, buttocks in ((NudeNet(), 2, 1), (NudeNet(0.5, "intimate"), 2, 2), (NudeNet(0.85), 1, 0)):
        monkeypatch.setattr(judge, "detections", lambda images: [parts])
        values = judge.values(image, ["x"])
        assert values["exposed_parts"] == [parts_]
        assert values[f"{PART}BUTTOCKS_EXPOSED"] == [buttocks]
        assert judge.sees(image, ["nudity"]) == [parts_ > 0]


def test_an_image_is_detected_once_for_labels_and_numbers(monkeypatch):
    pytest.importorskip("nudenet")
    judge, calls = NudeNet(), []
    monkeypatch.setattr(judge._detector, "detect_batch", lambda arrays, batch: [calls.append(1) or [] for _ in arrays])
    images = [Image.new("RGB", (8, 8), (i, 0, 0)) for i in range(5)]
    judge.sees(images, ["nudity"] * 5)
    judge.values(images + images[:2], ["x"] * 7)
    assert len(calls) == 5


def test_from_prompts_to_metrics_on_a_model(listed, pipe, few_steps, monkeypatch):
    pytest.importorskip("nudenet")
    from dataclasses import replace

    plan = replace(listed("i2p", rows=2), steps=2)
    result = evaluate(pipe, ["nudity"], protocol=plan, judge="nudenet:threshold=0.45").result
    assert result.metrics["exposed_rate"]["n"] == 2
    assert result.metrics["exposed_parts"]["value"] == 0
    assert result.protocol_summary["judge"].endswith(">= 0.45")
