"""Judges whose weights lie in packages, on a photograph of an officer in uniform that matplotlib brings along."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from excise.errors import JudgeError
from excise.evaluation.evaluate import evaluate
from excise.judges import JUDGES
from excise.judges.imagenet import LABELS
from excise.judges.nudenet import EXPOSED, NudeNet
from excise.protocols.base import Item, Protocol
from excise.protocols.concept import ATTRIBUTE


@pytest.fixture(scope="module")
def officer() -> Image.Image:
    return Image.open(pytest.importorskip("matplotlib.cbook").get_sample_data("grace_hopper.jpg", False)).convert("RGB")


@pytest.fixture(scope="module")
def nudenet() -> NudeNet:
    pytest.importorskip("nudenet")
    return JUDGES.load("nudenet")(None)


def test_nudenet_sees_a_face_and_nothing_exposed(nudenet, officer):
    (parts,) = nudenet.detections([officer])
    assert [p.label for p in parts] == ["FACE_FEMALE"]
    left, top, width, height = parts[0].box
    assert 100 < left < left + width < 412
    assert 80 < top < top + height < 400
    assert nudenet.sees([officer] * 2, ["nudity", "FACE_FEMALE"]) == [False, True]
    assert nudenet.likelihood([officer], "FACE_FEMALE") == [pytest.approx(parts[0].score)]
    assert nudenet.likelihood([officer], "nudity") == [0]


def test_nudenet_is_given_pictures_as_its_package_reads_files(nudenet, officer, tmp_path):
    officer.save(tmp_path / "officer.png")
    (of_file,) = nudenet._detector.detect(str(tmp_path / "officer.png"))
    (as_it_is,) = nudenet._detector.detect(np.asarray(officer))
    ours = nudenet.detections([officer])[0][0]
    assert ours.score == pytest.approx(of_file["score"], abs=1e-6)
    assert list(ours.box) == of_file["box"]
    assert abs(as_it_is["score"] - of_file["score"]) > 0.05  # the other order of channels is another picture to it


def test_an_image_is_judged_alone_whatever_its_size_and_neighbours(nudenet, officer):
    others = [Image.new("RGB", size, "grey") for size in ((64, 64), (300, 100), (90, 400))]
    alone = nudenet.detections([officer])
    assert nudenet.detections([*others, officer, *others * 3])[3] == alone[0]
    assert nudenet.detections([officer.convert("RGBA")]) == alone
    assert nudenet.scores([])["part"].shape == (0, 18)


def test_the_name_of_nudenet_says_version_threshold_and_what_counts():
    pytest.importorskip("nudenet")
    assert NudeNet(0.45, "intimate").name.endswith("intimate >= 0.45")
    assert NudeNet().name != NudeNet(0.5).name
    assert len(NudeNet().counted) == len(EXPOSED) == 9
    for settings, message in (((0.1,), "takes 0.2 to 1"), ((0.5, "all"), "takes exposed or intimate")):
        with pytest.raises(JudgeError, match=message):
            NudeNet(*settings)


def test_the_lite_classifier_knows_a_uniform(officer):
    pytest.importorskip("efficientnet_lite_pytorch")
    judge = JUDGES.load("imagenet-lite0")(None)
    scores = judge.scores([officer, officer.rotate(180)])["class"]
    assert scores.sum(dim=-1).tolist() == pytest.approx([1, 1])
    best = [LABELS[i] for i in scores[0].topk(3).indices.tolist()]
    assert "military uniform" in best
    assert judge.sees([officer] * 2, [best[0], "dog"]) == [True, False]


def test_its_pixels_are_scaled_as_the_network_was_trained(officer):
    """The statistics that its first normalisation remembers are those of pictures scaled so."""
    pytest.importorskip("efficientnet_lite_pytorch")
    judge = JUDGES.load("imagenet-lite0")(None)
    network = judge.networks["class"]
    first, kept = network._conv_stem(judge.prepare([officer])), network._bn0
    alive = kept.running_var > 1e-3
    ratio = first.var(dim=(0, 2, 3))[alive] / kept.running_var[alive]
    assert abs(float(ratio.log().mean())) < 0.5


def test_other_names_are_drawn_and_not_judged_by_a_detector(pipe, nudenet):
    result = evaluate(pipe, ["nudity"], judge="nudenet").result
    assert result.protocol_summary["judge"] == nudenet.name
    own = [s for s in result.shown if s.group == "target"]
    assert own
    assert all(s.asked == {ATTRIBUTE: "nudity"} for s in own)
    assert result.metrics["ua"]["n"] == len(own)
    rest = [s for s in result.shown if s.group in ("near", "retained")]
    assert rest
    assert not any(s.asked for s in rest)
    assert "ira" not in result.metrics


def test_a_concept_that_the_detector_cannot_see_is_refused_before_drawing(pipe, nudenet, monkeypatch):
    monkeypatch.setattr("excise.evaluation.evaluate.draw", lambda *a, **k: pytest.fail("drawn"))
    with pytest.raises(JudgeError, match=r"nudenet .* cannot see 'cat'"):
        evaluate(pipe, ["cat"], judge="nudenet")


def test_a_grid_of_other_things_is_refused_too(pipe, nudenet):
    items = (Item("grid", "a cat", {"object": "cat"}),)
    plan = Protocol("p", items, 2, 1.0, "none", "classes", {"object": ["cat"]}, ("grid",), ("grid",))
    with pytest.raises(JudgeError, match="cannot see 'cat'"):
        evaluate(pipe, protocol=plan, judge="nudenet")
