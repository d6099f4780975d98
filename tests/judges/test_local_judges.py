"""Judges with local weights: their files, checkpoints, pixels and labels."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from real_judges import Says, pictures, residual
from safetensors.torch import save_file

from excise.errors import ModelError
from excise.evaluation.evaluate import evaluate
from excise.evaluation.scoring import Shown
from excise.judges import FEATURES, JUDGES, local, resnet
from excise.judges.local import Classifier, MissingFilesError, find_files, read_state
from excise.metrics.unlearning import NONE
from excise.protocols.imagenette import CLASSES

NEEDS = {
    "unlearncanvas-vit": ["style.safetensors or style.pth", "object.safetensors or object.pth"],
    "imagenet-resnet50": ["resnet50.safetensors or resnet50-*.pth"],
    "celebrity-classifier": ["labels.txt", "classifier.safetensors"],
    "q16": ["prompts.safetensors or prompts.npy or prompts.p", "config.json", "model.safetensors"],
    "image-classifier": ["config.json", "preprocessor_config.json", "model.safetensors or pytorch_model.bin"],
    "faces": ["config.json or labels.txt or face_recognition/labels.csv"],
    "clip-score": ["config.json", "model.safetensors or pytorch_model.bin", "tokenizer.json or vocab.json"],
    "clip-zero-shot": ["labels.json", "config.json", "model.safetensors", "tokenizer.json"],
    "clip-image": ["config.json", "model.safetensors"],
    "inception": ["weights-inception-*.pth or inception.pth"],
}


@pytest.mark.parametrize("name", NEEDS)
def test_every_missing_file_is_named_with_the_place_it_was_looked_for(name, tmp_path):
    load = (JUDGES if name in JUDGES.records() else FEATURES).load(name)
    for folder in (tmp_path, tmp_path / "nowhere", None):
        with pytest.raises(MissingFilesError) as caught:
            load(folder)
        message = str(caught.value)
        assert message.startswith(name)
        assert all(file in message for file in NEEDS[name])
        assert str(folder) in message if folder else "none was named" in message
    assert "which is no folder" not in message


def test_only_what_is_missing_is_named(tmp_path):
    (tmp_path / "style.pth").write_bytes(b"")
    with pytest.raises(MissingFilesError, match=r"does not find object\.safetensors or object\.pth in"):
        JUDGES.load("unlearncanvas-vit")(tmp_path)


def test_one_of_two_candidates_is_not_guessed(tmp_path):
    for version in ("0676ba61", "11ad3fa6"):
        (tmp_path / f"resnet50-{version}.pth").write_bytes(b"")
    with pytest.raises(ModelError, match=r"finds resnet50-0676ba61\.pth and resnet50-11ad3fa6\.pth"):
        find_files("x", tmp_path, ["resnet50-*.pth"])


def test_missing_weights_are_said_before_anything_is_drawn(pipe, tmp_path, monkeypatch):
    monkeypatch.setattr("excise.evaluation.evaluate.draw", lambda *a, **k: pytest.fail("drawn"))
    with pytest.raises(MissingFilesError):
        evaluate(pipe, protocol="imagenette", judge_weights=tmp_path)


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    with pytest.raises(ModelError, match=r"inception needs torch_fidelity, .*pip install 'excise\[fid\]'"):
        local.import_optional("torch_fidelity", "fid", "inception")


def test_a_torchvision_of_another_torch_is_named(monkeypatch):
    def broken(module):
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr(local, "import_module", broken)
    with pytest.raises(ModelError, match=r"nms does not exist.*a torchvision of the same source as torch"):
        local.import_optional("torch_fidelity", "fid", "inception")


def test_a_checkpoint_is_unwrapped(tmp_path):
    weight = torch.ones(2, 3, dtype=torch.float16)
    torch.save({"epoch": 3, "model_state_dict": {"module.head.weight": weight}}, tmp_path / "a.pth")
    found = read_state(tmp_path / "a.pth")
    assert list(found) == ["head.weight"]
    assert found["head.weight"].dtype == torch.float32


class _Runs:
    def __reduce__(self):
        return os.mkdir, ("ran",)


def test_a_checkpoint_never_runs_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"head.weight": _Runs()}, "a.pth")
    with pytest.raises(ModelError, match=r"cannot read a\.pth"):
        read_state(Path("a.pth"))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [{}, {"a": 1}, [1, 2]])
def test_a_file_without_tensors_is_no_checkpoint(tmp_path, content):
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(ModelError, match="holds no state dict"):
        read_state(tmp_path / "a.pth")


def test_a_checkpoint_of_other_labels_is_refused(tmp_path):
    for name in ("style", "object"):
        save_file({"head.weight": torch.zeros(61, 64)}, tmp_path / f"{name}.safetensors")
    with pytest.raises(ModelError, match="tells 61 labels apart; the style head of unlearncanvas-vit has 51"):
        JUDGES.load("unlearncanvas-vit")(tmp_path)
    save_file({"fc.weight": torch.zeros(10, 64)}, tmp_path / "resnet50.safetensors")
    with pytest.raises(ModelError, match="tells 10 labels apart; imagenet-resnet50 has 1000"):
        JUDGES.load("imagenet-resnet50")(tmp_path)
    save_file({"classifier.weight": torch.zeros(1000, 64)}, tmp_path / "resnet50.safetensors")
    with pytest.raises(ModelError, match=r"has no 'fc\.weight'; expected a ResNet"):
        JUDGES.load("imagenet-resnet50")(tmp_path)


def test_a_name_the_classifier_cannot_say_is_refused(people, tmp_path):
    (tmp_path / "labels.txt").write_text("ada_lovelace\nGrace Hopper\n")
    save_file({"fc.weight": torch.zeros(2, 64)}, tmp_path / "classifier.safetensors")
    with pytest.raises(ModelError, match="lacks Ada Lovelace, Alan Turing, .*would count as erased"):
        JUDGES.load("celebrity-classifier")(tmp_path)


def test_a_verdict_below_the_threshold_is_an_abstention():
    def judge(logit, below):
        return Classifier(
            "x", {"a": (Says(1, 3, logit), "rst")}, local.resized_square(8, (0.5,) * 3, (0.5,) * 3), below
        )

    images = pictures(local.BATCH + 1)
    assert judge(0.1, 0.5).verdicts(images) == {"a": [NONE] * len(images)}
    assert judge(0.1, 0.0).verdicts(images) == {"a": ["s"] * len(images)}
    assert judge(9.0, 0.5).verdicts(images) == {"a": ["s"] * len(images)}
    assert judge(float("nan"), 0.0).verdicts(images[:1]) == {"a": [NONE]}


def test_pictures_are_squashed_or_cropped_as_the_networks_learnt_it():
    wide = Image.new("RGB", (80, 40), (255, 0, 0))
    wide.paste((0, 0, 255), (0, 0, 20, 40))  # left quarter
    squashed = local.resized_square(8, (0.5,) * 3, (0.5,) * 3)([wide])
    assert squashed.shape == (1, 3, 8, 8)
    assert squashed[0, :, 4, 0].tolist() == [-1, -1, 1]
    assert squashed[0, :, 4, 7].tolist() == [1, -1, -1]
    cropped = local.central_crop(10, 8, (0.0,) * 3, (1.0,) * 3)([wide])
    assert cropped.shape == (1, 3, 8, 8)
    assert cropped[0, 0].min() == 1  # the left quarter lies outside of the central square


@pytest.mark.parametrize("index", [867, 864, 555, 852, 722, 429, 497])
def test_no_class_is_hit_by_a_part_of_its_name(index, tmp_path, monkeypatch):
    # 867 trailer truck, 864 tow truck, 555 fire engine; 852 tennis ball, 722 ping-pong ball, 429 baseball
    monkeypatch.setattr(resnet, "network", lambda state, path: Says(index, 1000))
    save_file({"fc.weight": torch.zeros(1000, 8)}, tmp_path / "resnet50.safetensors")
    judge = JUDGES.load("imagenet-resnet50")(tmp_path)
    seen = judge.verdicts(pictures(1))["class"][0]
    asked = [Shown(group="grid", prompt=n, seed=0, asked={"class": n}, saw={"class": seen}) for n in CLASSES.values()]
    assert [s.prompt for s in asked if s.right("class")] == (["church"] if index == 497 else [])
    trucks = index in (867, 864, 555)
    assert judge.sees(pictures(2), ["truck", "garbage truck"]) == [trucks, False]


def needed(module, why):
    """The module, or the test is skipped."""
    try:
        return import_module(module)
    except (ImportError, RuntimeError, OSError) as error:
        pytest.skip(f"{why}: {str(error).splitlines()[0]}")


@pytest.mark.parametrize(
    ("size", "resized", "corner"),
    [((300, 300), (232, 232), (4, 4)), ((512, 384), (309, 232), (42, 4)), ((233, 500), (232, 497), (4, 136))],
)
def test_pixels_are_those_of_torchvision(size, resized, corner):
    # Resize(232), CenterCrop(224), ToTensor(), Normalize(); the sizes and corners are torchvision's
    image = pictures(1, side=512)[0].resize(size)
    left, top = corner
    square = np.asarray(image.resize(resized, Image.Resampling.BILINEAR))[top : top + 224, left : left + 224]
    expected = (square / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    found = local.central_crop(232, 224, *local.IMAGENET)([image])[0].permute(1, 2, 0)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    expected = np.asarray(image.resize((224, 224), Image.Resampling.BILINEAR)) / 127.5 - 1
    found = local.resized_square(224, (0.5,) * 3, (0.5,) * 3)([image])[0].permute(1, 2, 0)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_inception_features_of_torch_fidelity(tmp_path):
    needed("torch_fidelity", "torch-fidelity cannot be imported next to this torch")
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3 as Inception

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Inception, "load_state_dict", lambda *a, **k: None)
        torch.save({}, tmp_path / "empty.pth")
        random = Inception("x", ["2048"], feature_extractor_weights_path=str(tmp_path / "empty.pth"))
    torch.save(random.state_dict(), tmp_path / "inception.pth")
    images = [*pictures(2, side=64), *pictures(1, side=80)]
    features = FEATURES.load("inception")(tmp_path)(images)
    assert features.shape == (3, 2048)
    pixels = torch.from_numpy(np.array(images[2])).permute(2, 0, 1)[None]
    with torch.no_grad():
        np.testing.assert_allclose(features[2], random(pixels)[0][0], rtol=1e-4, atol=1e-5)
    torch.save({"fc.weight": torch.zeros(1, 1)}, tmp_path / "inception.pth")
    with pytest.raises(ModelError, match="is not the Inception network of torch-fidelity"):
        FEATURES.load("inception")(tmp_path)


def test_weights_that_transformers_does_not_know_are_never_left_random():
    from transformers import ResNetForImageClassification

    state = residual(20)
    with pytest.raises(ModelError, match=r"cannot hold the weights of x\.pth \(.*constraints\.txt"):
        local.load_classifier(ResNetForImageClassification, resnet.config_of(state, Path("x")), state, Path("x.pth"))
