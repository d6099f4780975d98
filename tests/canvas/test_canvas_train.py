"""`excise canvas train` loses no finished weights, and goes on where it stopped. The training itself is replaced."""

from __future__ import annotations

import json

import pytest


@pytest.fixture
def train(excise, tmp_path, monkeypatch):
    """Run the command with a training that writes the number of its steps; it can be told to break off."""
    trained, fails = [], []

    def oracle(model, session, out, steps, **_):
        trained.append(steps.denoiser)
        (out / model / "unet").mkdir(parents=True)
        (out / model / "unet" / "weights").write_text(str(steps.denoiser))
        if fails:
            raise fails.pop()
        (out / model / "model_index.json").write_text("{}")

    def world(session, out, steps):
        oracle("canvas-sd", session, out, steps)
        (out / "judge-a.safetensors").write_text("judge")

    monkeypatch.setattr("excise.canvas.build.train_oracle", oracle)
    monkeypatch.setattr("excise.canvas.build.train_world", world)

    def run(*more):
        return excise("canvas", "train", "--out", tmp_path / "out", "--work", tmp_path / "work", *more)

    run.trained, run.fails = trained, fails
    return run


def weights(tmp_path):
    return (tmp_path / "out" / "canvas-sd" / "unet" / "weights").read_text()


def test_finished_weights_of_another_request_are_not_replaced(train, tmp_path):
    assert train("--without", "cat", "--steps", 5)[0] == 0
    for more in (("--without", "dog", "--steps", 5), ("--without", "cat", "--steps", 4), ("--steps", 5)):
        status, _, err = train(*more)
        assert (status, "another request" in err, "--force" in err) == (2, True, True), err
    status, _, err = train("--without", "dog", "--steps", 5)
    assert "(--without cat, now --without dog)" in err
    assert (train.trained, weights(tmp_path)) == ([5], "5")
    assert train("--without", "dog", "--steps", 6, "--force")[0] == 0
    assert weights(tmp_path) == "6"


def test_weights_of_unknown_origin_are_not_replaced(train, tmp_path):
    folder = tmp_path / "out" / "canvas-sd"
    folder.mkdir(parents=True)
    (folder / "model_index.json").write_text("{}")
    status, _, err = train("--without", "cat")
    assert (status, "belongs to no finished run" in err) == (2, True), err
    assert train.trained == []


def test_judges_of_unknown_origin_are_not_replaced(train, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "judge-a.safetensors").write_text("mine")
    status, _, err = train()
    assert (status, "judge-a.safetensors is there already" in err) == (2, True), err
    assert train("--without", "cat")[0] == 0  # an oracle has no judges
    assert (tmp_path / "out" / "judge-a.safetensors").read_text() == "mine"


def test_the_same_request_is_answered_and_more_steps_continue(train, tmp_path):
    assert train("--without", "dog", "--without", "cat", "--steps", 5)[0] == 0
    status, _, err = train("--without", "cat", "--without", "dog", "--steps", 5, "--device", "cpu")
    assert (status, "nothing to do" in err) == (0, True), err
    assert train.trained == [5]
    assert train("--without", "dog", "--without", "cat", "--steps", 7)[0] == 0
    assert (train.trained, weights(tmp_path)) == ([5, 7], "7")


def test_the_judges_are_written_and_another_model_beside_is_no_conflict(train, tmp_path):
    assert train("--steps", 3)[0] == 0
    assert (tmp_path / "out" / "judge-a.safetensors").read_text() == "judge"
    assert train("--steps", 3)[0] == 0
    assert train.trained == [3]
    status, _, err = train("--without", "cat", "--model", "canvas-sana")
    assert status == 0, err
    assert json.loads((tmp_path / "out" / "canvas-sana" / "run.json").read_text())["verb"] == "canvas train"


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_an_interrupted_training_leaves_no_half_written_weights(train, tmp_path, stop):
    train.fails.append(stop)
    status, _, err = train("--without", "cat")
    assert status in (2, 130), err
    assert not (tmp_path / "out").exists()
    assert train("--without", "cat")[0] == 0


def test_the_old_weights_stay_until_the_new_ones_are_whole(train, tmp_path):
    assert train("--without", "cat", "--steps", 5)[0] == 0
    train.fails.append(KeyboardInterrupt())
    assert train("--without", "cat", "--steps", 6)[0] == 130
    assert weights(tmp_path) == "5"
