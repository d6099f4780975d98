"""An interrupted command leaves nothing half-written, says one sentence, and the same command goes on."""

from __future__ import annotations

import os
import signal

import pytest


@pytest.fixture
def stop_at(monkeypatch):
    """A function: the first call of a function breaks off, by Ctrl-C or by a request to terminate."""

    def stop(place: str, after: int = 0, number: int = signal.SIGINT) -> None:
        module, _, name = place.rpartition(".")
        original, calls = getattr(__import__(module, fromlist=[name]), name), []

        def interrupted(*args, **options):
            calls.append(1)
            if len(calls) == after + 1:
                if number == signal.SIGINT:
                    raise KeyboardInterrupt
                os.kill(os.getpid(), number)
            return original(*args, **options)

        monkeypatch.setattr(place, interrupted)

    return stop


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("place", ["excise.report.run_page.erase_page", "excise.support.runs.write_run"])
def test_an_erasure_begins_again_after_an_interruption(excise, model, tmp_path, stop_at, place, number, status):
    words = ("erase", "--model", model, "-c", "cat", "--method", "uce", "--out", tmp_path / "run")
    stop_at(place, number=number)
    found, _, err = excise(*words)
    assert (found, err.count("excise: interrupted"), "Traceback" in err) == (status, 1, False), err
    found, _, err = excise(*words)
    assert found == 0, err
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.parametrize(
    ("place", "kept"), [("excise.edits.file.write_tensors", True), ("excise.support.runs.write_json", False)]
)
def test_no_run_tells_of_an_edit_that_was_replaced_before_an_interruption(
    excise, model, tmp_path, stop_at, place, kept
):
    words = ("erase", "--model", model, "--method", "uce", "--out", tmp_path / "run")
    assert excise(*words, "-c", "cat")[0] == 0
    before = (tmp_path / "run" / "edit.safetensors").read_bytes()
    stop_at(place)
    assert excise(*words, "-c", "dog", "--force")[0] == 130
    assert ((tmp_path / "run" / "edit.safetensors").read_bytes() == before) == kept
    assert (tmp_path / "run" / "run.json").exists() == kept


def test_pictures_are_drawn_again_after_an_interruption(excise, model, tmp_path, stop_at):
    words = ("generate", "--model", model, "-p", "a cat", "--steps", 1, "--count", 3, "--out", tmp_path / "run")
    stop_at("excise.support.runs.write_png", after=1)
    assert excise(*words)[0] == 130
    assert not (tmp_path / "run").exists()
    assert excise(*words)[0] == 0
    assert len(list((tmp_path / "run" / "images").iterdir())) == 3


def test_batches_of_pictures_that_were_drawn_before_an_interruption_are_kept(
    excise, model, tmp_path, stop_at, monkeypatch
):
    monkeypatch.setattr("excise.cli.generate.BATCH", 2)
    words = ("generate", "--model", model, "-p", "a cat", "--steps", 1, "--count", 5, "--out", tmp_path / "run")
    stop_at("excise.support.runs.write_png", after=3)
    assert excise(*words)[0] == 130
    kept = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "run" / "images").iterdir()}
    assert len(kept) == 2
    status, _, err = excise(*words)
    assert (status, "2 of these were there" in err) == (0, True), err
    after = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "run" / "images").iterdir()}
    assert len(after) == 5
    assert kept.items() <= after.items()


@pytest.mark.parametrize("format", ["merged", "single-file", "kohya-lora", "diffusers-lora"])
def test_an_export_is_written_again_after_an_interruption(excise, model, tmp_path, stop_at, format):
    edit = tmp_path / "run"
    assert excise("erase", "--model", model, "-c", "cat", "--method", "uce", "--out", edit)[0] == 0
    stop_at("excise.exporting.write_card")
    words = ("export", edit, "--format", format, "--out", tmp_path / "shipped")
    assert excise(*words)[0] == 130
    status, _, err = excise(*words)
    assert status == 0, err
    assert not [p for p in (tmp_path / "shipped").iterdir() if p.name.startswith(".")]
