"""The page of one evaluation: the main metric of every kind of protocol stands on it, in its own unit."""

from __future__ import annotations

import pytest

from excise.evaluation.catalog import METRICS
from excise.evaluation.result import Evaluated, Evaluation
from excise.evaluation.scoring import Shown
from excise.report.run_page import evaluation_section, summary, write_page

PLAN = {
    "score": "captions",
    "judge": "clip-score",
    "second": None,
    "steps": 30,
    "sampler": "model",
    "guidance": 7.5,
}


def evaluation(protocol: str, metrics: dict[str, float], **more) -> Evaluation:
    estimates = {k: {"value": v, "low": 0.9 * v, "high": 1.1 * v, "n": 40} for k, v in metrics.items()}
    return Evaluation(
        protocol=protocol,
        hash="ab" * 32,
        protocol_summary=PLAN,
        model="my-model",
        concepts=[],
        metrics=estimates,
        seconds={"draw": 10.0, "judge": 2.0},
        **{"became": {}, "shown": [], **more},
    )


def page(tmp_path, result: Evaluation) -> str:
    section = evaluation_section("Results", None, Evaluated(result, []), None, [])  # type: ignore[arg-type]
    return write_page("A page", "lead", [section], result, tmp_path / "r.html").read_text()


@pytest.mark.parametrize(
    ("protocol", "metrics", "texts"),
    [
        ("coco", {"clip_score": 31.42}, ["CLIP score", "31.420", "28.278–34.562"]),
        ("imagenette", {"accuracy": 0.8, "abstain": 0.05}, ["accuracy", "80.0 %", "72.0–88.0", "5.0 %"]),
        ("canvas-mini", {"kid": 0.01, "drift": 0.02}, ["KID", "0.0100", "0.0090–0.0110", "0.0200"]),
    ],
)
def test_main_metrics_stand_on_the_page_in_their_unit(tmp_path, protocol, metrics, texts):
    text = page(tmp_path, evaluation(protocol, metrics))
    for wanted in texts:
        assert wanted in text
    assert text.count('<th scope="row">') == len(metrics)


def test_every_catalogued_metric_has_a_row(tmp_path):
    result = evaluation("canvas-mini", dict.fromkeys(METRICS, 0.5))
    section = evaluation_section("Results", None, Evaluated(result, []), None, [])  # type: ignore[arg-type]
    assert [row.name for row in section.metrics] == [m.title for m in METRICS.values()]
    assert [row.unit for row in section.metrics] == [m.unit for m in METRICS.values()]


@pytest.mark.parametrize("protocol", ["coco", "canvas-mini"])
def test_the_limits_of_the_built_in_world_are_told_of_its_protocols_alone(tmp_path, protocol):
    text = page(tmp_path, evaluation(protocol, {"accuracy": 0.5}))
    assert ("small built-in world" in text) == protocol.startswith("canvas")


def test_a_protocol_of_classes_has_no_map_of_objects_and_styles(tmp_path):
    """Its group is called grid as well, but its prompts ask for a class alone."""
    shown = [Shown(group="grid", prompt="a church", seed=0, asked={"class": "church"}, saw={"class": "tench"})]
    text = page(tmp_path, evaluation("imagenette", {"accuracy": 0.0}, shown=shown))
    assert "Every object in every style" not in text


@pytest.mark.parametrize(
    ("metrics", "sentences"),
    [
        ({"ua": 0.95, "ira": 0.8, "cra": 0.9}, ["95.0 % no longer show it", "right in 80.0 %", "right in 90.0 %"]),
        ({"acc_e": 0.1, "acc_r": 0.7}, ["10.0 % still show the name", "70.0 % show the name"]),
        ({"sc": 0.5}, ["Only a part of the protocol was run."]),
    ],
)
def test_the_summary_says_the_main_results(metrics, sentences):
    result = evaluation("canvas-mini", metrics).model_copy(update={"concepts": ["cat"]})
    for sentence in sentences:
        assert sentence in summary(result)
    assert "0 images in 12 s" in summary(result)
