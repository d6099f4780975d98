"""Whether a setting is idle is decided by the preset of the kind that a name has, before anything large is imported."""

from __future__ import annotations

import pytest

HUB = "stable-diffusion-v1-5/stable-diffusion-v1-5"
GIVEN = ("--vocabulary", "canvas", "--set", "preset=official", "--set", "gate_power=2")
"""The gate belongs to ScaPre's program for styles, and the vocabulary knows watercolor as one."""


@pytest.mark.parametrize(("name", "status"), [("watercolor", 0), ("cat", 2)])
def test_erase_guesses_the_kind_first(excise, tmp_path, name, status):
    request = ("--model", HUB, "--method", "scapre", "--concept", name, "--out", tmp_path / "a", "--dry-run")
    seen, _, said = excise("erase", *request, *GIVEN)
    assert seen == status, said
    assert ("leave gate_power out" in said) == bool(status)


@pytest.mark.parametrize(("name", "status"), [("watercolor", 0), ("cat", 2)])
def test_bench_guesses_the_kinds_first(excise, tmp_path, name, status):
    (tmp_path / "a.yaml").write_text(
        f"schema: 1\nname: a\nmodels: [canvas-sd]\nprotocols: [canvas-mini]\nconcepts: [{name}]\nvocabulary: canvas\n"
        "methods: [{name: scapre, settings: {preset: official, gate_power: 2}}]\n"
    )
    seen, _, said = excise("bench", tmp_path / "a.yaml", "--out", tmp_path / "runs", "--dry-run")
    assert seen == status, said
    assert ("leave gate_power out" in said) == bool(status)


@pytest.mark.parametrize(("names", "status"), [(("watercolor", "neon"), 0), (("watercolor", "cat"), 2)])
def test_a_sequence_checks_every_kind(excise, tmp_path, monkeypatch, names, status):
    for later in ("_run", "_print"):
        monkeypatch.setattr(f"excise.cli.sequence.{later}", lambda *_, **__: None)
    concepts = [part for name in names for part in ("--concept", name)]
    request = ("--model", "canvas-sd", "--method", "scapre", *concepts, "--out", tmp_path / "a")
    seen, _, said = excise("sequence", *request, *GIVEN)
    assert (seen, "leave gate_power out" in said) == (status, bool(status)), said
