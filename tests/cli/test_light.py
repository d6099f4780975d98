"""Commands that only show something, and refusals, import no library that computes or draws."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import excise
from excise import exporting
from excise.edits import exports
from excise.exporting import layouts
from excise.exporting.readers import READERS
from excise.methods import METHODS, load_method, settings_of
from excise.policy import ledger

HEAVY = ("torch", "numpy", "pandas", "diffusers", "transformers", "peft", "accelerate", "scipy", "PIL")
START = f"""
import sys

class Refused:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {HEAVY!r}:
            raise RuntimeError("imports " + name)

sys.meta_path.insert(0, Refused())
from excise.cli.main import run
run()
"""


def light(*command: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a command in a process in which no heavy library can be imported."""
    source = str(Path(excise.__file__).parent.parent)
    return subprocess.run(
        [sys.executable, "-c", START, *map(str, command)],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": source, "PATH": ""},
        check=False,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the run of an edit, and with a policy that removes nothing."""
    import torch

    from excise.edits.deltas import Dense, LowRank, TextMap
    from excise.edits.edit import Edit
    from excise.edits.record import Base, EditRecord, Target

    place = tmp_path_factory.mktemp("light")
    base = Base(model="m", family="sd", weights="0" * 32, weights_bfloat16="0" * 32, text_encoder="0" * 32)
    record = EditRecord(excise="0", base=base, method="uce", concepts=(Target(name="cat", kind="object", anchor=""),))
    maps = (TextMap(torch.ones(4, 2), torch.ones(2, 4), ("one", "two")),)
    modules = {"three": LowRank(torch.ones(3, 1), torch.ones(1, 4)), "four": Dense(torch.ones(5))}
    Edit(record, maps, modules).save(place / "run" / "edit.safetensors")
    Edit(record, maps, modules).save(place / "shipped" / "lora.safetensors")
    (place / "shipped" / "README.md").write_text("A card.")
    entry = {"time": "2026-01-01T00:00:00", "model": {"name": "m", "weights": "0" * 32}, "in_force": [], "edit": None}
    ledger.append(place, {**entry, "added": [], "removed": [], "verified": None, "groups": []})
    return place


@pytest.mark.parametrize(
    "command",
    [
        ("--version",),
        ("--help",),
        ("erase", "--help"),
        ("methods",),
        ("methods", "--json"),
        *(("methods", name) for name in METHODS if METHODS.is_built_in(name)),
        ("protocols",),
        ("list", "{folder}"),
        ("inspect", "{folder}/run"),
        ("inspect", "{folder}/run", "--json"),
        ("ledger", "{folder}"),
        ("push", "--help"),
        ("push", "{folder}/shipped", "--repo", "me/x", "--dry-run"),
    ],
    ids=" ".join,
)
def test_what_only_shows_imports_nothing_heavy(command: tuple[str, ...], folder: Path) -> None:
    done = light(*(word.format(folder=folder) for word in command))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (("methods", "uec"), "uce"),
        (("ledger", "{folder}/run"), "holds no ledger"),
        (("inspect", "nowhere"), "no file or folder nowhere"),
        (("diff", "nowhere", "nowhere"), "no edit file nowhere"),
        (("update", "nowhere", "--add", "dog"), "no edit file nowhere"),
        (("erase", "-c", "cat", "--model", "canvas-so", "--out", "new"), "canvas-so"),
        (("erase", "-c", "cat", "--model", "canvas-sd", "--method", "uec", "--out", "new"), "uec"),
        (("erase", "-c", "cat", "--model", "canvas-sd", "--set", "rigde=1", "--out", "new"), "ridge"),
        (("erase", "-c", "cat", "--model", "canvas-sd", "--preserve", "cat", "--out", "new"), "at once"),
        (("apply", "nowhere.yaml", "--out", "new"), "nowhere.yaml"),
        (("export", "{folder}/run", "--for", "comfy", "--out", "new"), "comfyui"),
        (("export", "{folder}/run", "--format", "kohya", "--out", "new"), "kohya-lora"),
        (("export", "nowhere", "--out", "new"), "nowhere"),
        (("push", "nowhere", "--repo", "me/x"), "nowhere"),
        (("push", "{folder}/run", "--repo", "me"), "OWNER/NAME"),
        (("evaluate", "--model", "canvas-sd", "--judge", "clop", "--protocol", "concept"), "no judge clop; --judge"),
        (("attack", "-c", "cat", "--judge", "clop", "--out", "new"), "no judge clop; --judge"),
        (("erase", "-c", "cat", "--model", "canvas-sd", "--judge", "clop", "--out", "new"), "no judge clop; --judge"),
    ],
)
def test_refusals_import_nothing_heavy(command: tuple[str, ...], said: str, folder: Path) -> None:
    done = light(*(word.format(folder=folder) for word in command))
    assert (done.returncode, said in done.stderr) == (2, True), done.stderr


@pytest.mark.parametrize("name", [name for name in METHODS if METHODS.is_built_in(name)])
def test_settings_without_the_method_are_the_methods(name: str) -> None:
    assert settings_of(name) is load_method(name).Config


def test_names_of_formats_and_programs_are_those_of_exports() -> None:
    assert sorted(exporting.FORMATS) == sorted(exports.FORMATS)
    assert sorted({*READERS, *layouts.PROGRAMS}) == sorted(exports.PROGRAMS)
    assert all({*row.formats} <= {*exports.FORMATS} for row in layouts.TRANSFORMERS.values())


def test_outline_tells_what_the_edit_tells(folder: Path) -> None:
    from excise.edits.deltas import total_bytes
    from excise.edits.edit import Edit
    from excise.edits.outline import outline

    seen, edit = outline(folder / "run"), Edit.load(folder / "run")
    assert seen is not None
    assert (seen.record, seen.paths, len(seen.maps), seen.rank) == (edit.record, edit.paths, 1, 2)
    assert seen.bytes == total_bytes(edit.tensors().values())


def test_outline_leaves_what_is_damaged_to_the_reader(folder: Path, tmp_path: Path) -> None:
    from excise.edits.outline import outline

    content = (folder / "run" / "edit.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(content[:-4])
    (tmp_path / "nan.safetensors").write_bytes(content[:-4] + b"\xff\xff\xff\xff")
    (tmp_path / "noise.safetensors").write_bytes(b"noise" * 9)
    assert [outline(path) for path in sorted(tmp_path.iterdir())] == [None, None, None]
