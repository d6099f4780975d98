"""A built-in model is known by where it lies, however its folder is spelled."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest

from excise.families.built_in import BUILT_IN, WEIGHTS, is_built_in, names_built_in, presets_for, presets_of


def family(name):
    return SimpleNamespace(pipe=SimpleNamespace(config={} if name is None else {"_name_or_path": name}))


def known(name) -> bool:
    return is_built_in(family(name))


@pytest.mark.parametrize("model", BUILT_IN)
def test_a_built_in_model_is_known_by_any_spelling_of_its_folder(model, tmp_path, monkeypatch):
    folder = WEIGHTS / model
    (tmp_path / "link").symlink_to(folder)
    monkeypatch.chdir(tmp_path)
    for name in (folder, str(folder), f"{folder}/", os.path.relpath(folder), f"./{os.path.relpath(folder)}", "link"):
        assert known(name)
        assert names_built_in(str(name))
        assert presets_of(str(name)) == presets_for(family(name)) == (model, "canvas")
    assert names_built_in(model)
    assert presets_of(model) == (model, "canvas")
    assert presets_for(family(model)) == ()  # a folder of that name in the working directory


def test_nothing_else_is_taken_for_one(tmp_path, monkeypatch):
    monkeypatch.chdir(WEIGHTS / BUILT_IN[0])  # where no name at all would mean the folder of a model
    for name in (None, "", "None", "org/canvas-sd", "canvas", str(tmp_path), "a\0b", "x" * 5000):
        assert not known(name)
        assert not names_built_in(name)
        assert presets_of(name) == presets_for(family(name)) == ()
