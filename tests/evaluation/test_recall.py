"""Requests asked twice: remembered by what they read, forgotten when any of it changes."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from excise.evaluation import result_cache as recall


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "weights").write_text("1")
    return folder


def test_a_key_follows_every_file_and_option(model, tmp_path):
    edit = tmp_path / "edit"
    edit.write_text("a")

    def key(**options):
        return recall.request_key(str(model), [str(edit)], "hash", {"groups": None, **options})

    first = key()
    assert first == key()
    assert first != key(groups=["grid"])
    edit.write_text("ab")
    assert first != key()
    (model / "weights").write_text("22")
    assert len({first, key()}) == 2
    assert recall.request_key("org/name", [], "hash", {}) is None  # a hub id may change behind its name
    assert recall.request_key(str(model), ["missing"], "hash", {}) is None


def test_what_is_kept_is_found_where_its_run_is_whole(tmp_path):
    cache, out = tmp_path / "cache", tmp_path / "out"
    recall.keep(cache, "abc", {"metrics": {"ua": 1}})
    assert recall.find(cache, "abc", None) == {"metrics": {"ua": 1}}
    assert recall.find(cache, "abc", out) is None
    out.mkdir()
    (out / "run.json").write_text(json.dumps({"request": "abc"}))
    assert recall.find(cache, "abc", out) is None
    (out / "report.html").write_text("")
    assert recall.find(cache, "abc", out) == {"metrics": {"ua": 1}}
    assert recall.find(cache, "other", out) is None
    assert recall.find(None, "abc", None) is None
    (cache / "results" / "abc.json").write_text('{"metr')
    assert recall.find(cache, "abc", None) is None


def test_recalling_does_not_import_torch():
    modules = "excise.evaluation.result_cache, excise.protocols, excise.cli.evaluate"
    code = f"import sys, {modules}; assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
