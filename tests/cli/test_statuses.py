"""Exit status 1 is a failed gate's alone; the version, the module and the completion of shells."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings

import pytest
import typer

import excise as package
from excise.cli import main
from excise.errors import ExciseError, ExciseWarning, GatesFailed


class OutOfMemoryError(RuntimeError):
    """As torch calls its own."""


@pytest.mark.parametrize(
    ("given", "then"), [({}, "20000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "ACTIVE"}, None)]
)
def test_threads_that_wait_spin_a_short_time_unless_the_caller_says_otherwise(excise, monkeypatch, given, then):
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.setenv(name, "")  # so that it is put back afterwards
        monkeypatch.delenv(name)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert excise("--version")[0] == 0
    assert os.environ.get("GOMP_SPINCOUNT") == then


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (GatesFailed(), 1, ""),
        (ExciseError("no such thing."), 2, "excise: no such thing."),
        (typer.BadParameter("no"), 2, "Invalid value"),
        (KeyboardInterrupt(), 130, "excise: interrupted; nothing half-written is left"),
        (typer.Abort(), 130, "Aborted"),
        (EOFError(), 130, "Aborted"),
        (BrokenPipeError(32, "Broken pipe"), 141, ""),
        (OutOfMemoryError("CUDA out of memory"), 2, "excise: the memory ran out"),
        (MemoryError(), 2, "excise: the memory ran out"),
        (PermissionError(13, "Permission denied", "x"), 2, "excise: the system refused: Permission denied (x)"),
        (ValueError("subsets of 1 images"), 70, "a defect of excise"),
        (AssertionError(), 70, "Traceback"),
        (RuntimeError("\n"), 70, "a defect of excise"),
    ],
    ids=lambda v: type(v).__name__ if isinstance(v, BaseException) else None,
)
def test_every_way_to_end_has_its_status(error, status, words, excise, monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("excise.methods.METHODS.records", fail)
    monkeypatch.setattr(sys, "stdout", sys.stdout)  # typer replaces them where the reader has gone
    monkeypatch.setattr(sys, "stderr", sys.stderr)
    code, _, err = excise("methods")
    assert (code, words in err) == (status, True), err


def test_a_command_that_does_not_exist_and_a_missing_argument_are_two(excise):
    assert excise("nothing")[0] == 2
    assert excise("inspect")[0] == 2
    assert excise("evaluate", "--batch", "0")[0] == 2


def test_no_command_raises_an_exit_of_its_own_but_gates():
    folder = os.path.dirname(main.__file__)
    for name in os.listdir(folder):
        if name.endswith(".py") and name != "main.py":
            with open(os.path.join(folder, name), encoding="utf-8") as file:
                text = file.read()
            assert "sys.exit" not in text, name
            assert "Exit(1)" not in text, name


def test_the_version_is_printed_and_nothing_else(excise):
    assert excise("--version") == (0, f"excise {package.__version__}\n", "")


def test_the_package_is_a_program():
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-m", "excise", "--version"], capture_output=True, text=True, env=env)
    assert (done.returncode, done.stdout) == (0, f"excise {package.__version__}\n")


def test_shells_can_complete_commands():
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "_EXCISE_COMPLETE": "complete_bash",
           "COMP_WORDS": "excise era", "COMP_CWORD": "1"}  # fmt: skip
    done = subprocess.run([sys.executable, "-m", "excise"], capture_output=True, text=True, env=env)
    assert done.stdout.split() == ["erase"]


def test_each_warning_is_printed_once_in_a_command(excise, monkeypatch):
    def warn(*_: object, **__: object) -> list[str]:
        for number in (1, 1, 2, 1):
            with warnings.catch_warnings():  # which makes Python forget what it has shown
                warnings.simplefilter("always")
                warnings.warn(f"warning {number}", ExciseWarning, stacklevel=1)
        return []

    monkeypatch.setattr("excise.methods.METHODS.records", warn)
    for _ in range(2):  # the next command says it again
        err = excise("methods")[2]
        assert [err.count(f"excise: warning: warning {n}") for n in (1, 2)] == [1, 1]
