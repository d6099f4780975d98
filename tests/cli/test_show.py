"""What a person is told while something is done."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from situations import UNET_FORMATS

from excise.cli import show


@pytest.fixture
def clock(monkeypatch):
    """Seconds, moved by the test."""
    now = [1000.0]
    monkeypatch.setattr(show.time, "monotonic", lambda: now[0])
    return now


def count(say, clock, each, steps, first=0):
    for done in range(first, steps + 1):
        say("drawing", done, steps)
        clock[0] += each


def test_time_left_is_of_the_stage_at_hand_when_one_comes_again(clock, capsys):
    with show.stages() as say:
        count(say, clock, 11, 3)
        clock[0] += 5000  # something else is done
        count(say, clock, 20, 3)
    assert capsys.readouterr().err.splitlines() == [
        "drawing: 1/3, about 22 s left",
        "drawing: 2/3, about 11 s left",
        "drawing: 3/3",
        "drawing: 1/3, about 40 s left",
        "drawing: 2/3, about 20 s left",
        "drawing: 3/3",
    ]


def test_time_left_does_not_count_what_was_done_before(clock, capsys):
    with show.stages() as say:
        count(say, clock, 15, 60, first=57)
    assert capsys.readouterr().err.splitlines() == [
        "drawing: 58/60, about 30 s left",
        "drawing: 59/60, about 15 s left",
        "drawing: 60/60",
    ]


def test_part_of_a_step_counts_for_the_time_left_and_is_printed_in_whole_numbers(clock, capsys):
    with show.stages() as say:
        for done in (0, 0.25, 0.5, 1.5, 4):
            say("drawing", done, 4)
            clock[0] += 11
    assert capsys.readouterr().err.splitlines() == [
        "drawing: 0/4, about 165 s left",
        "drawing: 0/4, about 154 s left",
        "drawing: 1/4, about 55 s left",
        "drawing: 4/4",
    ]


def test_a_stage_of_a_moment_is_not_worth_a_line(clock, capsys):
    with show.stages() as say:
        count(say, clock, 0.1, 5)
    assert capsys.readouterr().err == ""


def test_a_bar_that_comes_again_begins_anew(monkeypatch):
    bars = []

    class Watched(show.Progress):
        def __enter__(self):
            bars.append(self)
            return super().__enter__()

    monkeypatch.setattr(show, "Progress", Watched)
    monkeypatch.setattr(show, "errors", Console(force_terminal=True, width=100, file=io.StringIO()))
    with show.stages() as say:
        for done in (0, 1, 2, 0, 1):
            say("drawing", done, 2)
        (task,) = bars[0].tasks
        assert (task.completed, task.finished, task.finished_time) == (1, False, None)


@pytest.mark.usefixtures("few_steps")
def test_no_bars_of_other_libraries_are_shown(excise, model, tmp_path):
    """Whatever loads, draws or saves a model shows the bars of this program alone."""
    edit = tmp_path / "run"
    commands = [
        ("erase", "--model", model, "-c", "cat", "--method", "uce", "--preview", "--out", edit),
        ("erase", "--model", model, "-c", "dog", "--method", "uce", "--out", tmp_path / "dog"),
        ("fuse", edit / "edit.safetensors", tmp_path / "dog" / "edit.safetensors", "--out", tmp_path / "fused"),
        ("generate", "--model", model, "-e", edit, "-p", "a cat", "--steps", 1, "--out", tmp_path / "drawn"),
        ("evaluate", "--model", model, "-e", edit, "--pictures", 1, "--out", tmp_path / "seen"),
        *(("export", edit, "--format", format, "--out", tmp_path / format) for format in UNET_FORMATS),
        ("import", tmp_path / "merged", "--model", model, "-c", "cat", "--out", tmp_path / "read"),
    ]
    for words in commands:
        status, out, err = excise(*words)
        assert (status, "%|" in out + err) == (0, False), err
