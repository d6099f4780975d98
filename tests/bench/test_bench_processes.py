"""`excise bench` as people run it: killed and started again, in two processes, over Ray; always the same result."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

pytestmark = pytest.mark.canvas

RECIPE = """
schema: 1
name: processes
groups: [aliases]
methods: [uce, identity]
concepts: [cat]
vocabulary: canvas-strict
"""
BENCH = ["-m", "excise.cli.main", "bench"]
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "recipe.yaml"
    path.write_text(RECIPE)
    return path


@pytest.fixture(scope="module")
def whole(recipe, tmp_path_factory):
    """The result of one uninterrupted process."""
    out = tmp_path_factory.mktemp("whole")
    run([sys.executable, *BENCH, str(recipe), "--out", str(out)])
    return out


def run(command) -> None:
    done = subprocess.run(command, env=ONE_THREAD, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]


def lines_of(out):
    lines = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("seconds", "peak_memory_mb")} for line in lines]


def images_of(out):
    return {p.name: p.read_bytes() for p in (out / "images").rglob("*.png")}


def test_killed_at_any_moment_it_goes_on_and_ends_the_same(recipe, whole, tmp_path):
    command = [sys.executable, *BENCH, str(recipe), "--out", str(tmp_path)]
    process = subprocess.Popen(command, env=ONE_THREAD, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not list(tmp_path.glob("cells/*.json")) and time.monotonic() < deadline:
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(list(tmp_path.glob("cells/*.json"))) < 2
    run(command)
    assert lines_of(tmp_path) == lines_of(whole)
    assert images_of(tmp_path) == images_of(whole)


def test_two_processes_give_the_bytes_of_one(recipe, whole, tmp_path):
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    run([*launch, *BENCH, str(recipe), "--out", str(tmp_path)])
    assert lines_of(tmp_path) == lines_of(whole)
    assert images_of(tmp_path) == images_of(whole)


def test_ray_gives_the_numbers_of_one_process(recipe, whole, tmp_path):
    pytest.importorskip("ray")
    run([sys.executable, *BENCH, str(recipe), "--out", str(tmp_path), "--engine", "ray"])
    assert lines_of(tmp_path) == lines_of(whole)
    assert images_of(tmp_path) == images_of(whole)


def test_a_second_process_is_refused(recipe, whole, tmp_path):
    from excise.support.runs import locked

    with locked(tmp_path):
        command = [sys.executable, *BENCH, str(recipe), "--out", str(tmp_path)]
        done = subprocess.run(command, env=ONE_THREAD, capture_output=True, text=True)
    assert done.returncode == 2
    assert "another process is at work" in done.stderr
