"""What `excise evaluate` and `excise apply` verify is kept beside the edit, whether a gate passed or failed."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import worlds
from situations import uce

from excise.attacks.accounting import Outcome, Result
from excise.attacks.suite import SuiteResult
from excise.cli.evaluate import EvaluateOptions
from excise.cli.evaluate import _attacked as attacked_by
from excise.cli.evidence import keep_attack, keep_evaluation, keep_policy
from excise.cli.gates import parse_all
from excise.cli.options import Source
from excise.edits import verified
from excise.edits.edit import Edit
from excise.exporting.card import edit_card
from excise.support.runs import write_run

CLEAN = {"value": 1.0, "low": 0.7225, "high": 1.0, "n": 10}


def document() -> dict:
    return {
        "model": "tiny",
        "protocol": "concept",
        "hash": "f" * 64,
        "protocol_summary": {"judge": "clip"},
        "concepts": ["cat"],
        "metrics": {"ua": CLEAN},
        "verdicts": [{"concept": "cat", "status": "verified", "images": 10, "clean": CLEAN}],
    }


def saved(pipe, path: Path, strength: float = 1.0) -> str:
    return str(uce(pipe).scaled(strength).save(path))


def test_an_evaluation_is_kept_beside_every_edit(pipe, tmp_path):
    files = [saved(pipe, tmp_path / "a" / "edit.safetensors"), saved(pipe, tmp_path / "b" / "edit.safetensors", 0.5)]
    keep_evaluation(files, document(), parse_all(["ua>=0.7,ua>=0.9"]))
    for one, other in (files, files[::-1]):
        (check,) = verified.checks_of(Path(one))
        assert [gate.passed for gate in check.gates] == [True, False]
        assert check.verdicts == {"cat": "verified: 10 of 10 clean (at least 72 %)"}
        assert check.beside == (verified.file_digest(Path(other)),)
        assert "with 1 more edit applied" in " ".join(verified.sentences([check]))


def test_a_gate_of_what_could_not_be_measured_is_kept_as_failed(pipe, tmp_path):
    file = saved(pipe, tmp_path / "edit.safetensors")
    unseen = {"concept": "cat", "status": "not verifiable", "images": 10, "clean": None}
    keep_evaluation([file], {**document(), "metrics": {}, "verdicts": [unseen]}, parse_all(["ua>=0.7"]))
    (check,) = verified.checks_of(Path(file))
    assert [(gate.gate, gate.passed) for gate in check.gates] == [("ua>=0.7", False)]
    assert "gate ua>=0.7 FAILED: not measured" in " ".join(verified.sentences([check]))


def test_the_gates_of_an_attack_are_kept_beside_the_edit(pipe, tmp_path):
    file = saved(pipe, tmp_path / "edit.safetensors")
    found = Outcome(["a cat"], [[True]], None, [["a cat"]], 2, 40, 3.0, 0.0)
    outcome = SuiteResult([Result("seeds", "seeds", {}, "black box", False, 1, found, found)], {}, False, "clip", "e")
    request = {"model": "tiny", "suite": "quick", "concept": "cat"}
    back = outcome.worst.back
    assert back is not None
    keep_attack([], request, outcome, [], {"worst_back": back.as_dict()})
    gates = parse_all(["worst_back<=0.3,worst_back<=1,worst_gap<=0.3"], ["worst_back", "worst_gap"])
    keep_attack([file], request, outcome, gates, {"worst_back": back.as_dict()})
    (check,) = verified.checks_of(Path(file))
    assert (check.command, check.protocol, check.concepts) == ("attack", "attacks of the suite 'quick'", ("cat",))
    assert [gate.passed for gate in check.gates] == [False, True, False]
    assert "gate worst_back<=0.3 FAILED: 1.000" in " ".join(verified.sentences([check]))


def test_an_attack_without_a_gate_is_kept_and_verifies_nothing(pipe, tmp_path, excise):
    file = saved(pipe, tmp_path / "edit.safetensors")
    hits = Outcome(["a cat"], [[True]], None, [["a cat"]], 2, 40, 3.0, 0.0)
    outcome = SuiteResult([Result("seeds", "seeds", {}, "black box", False, 1, hits, hits)], {}, False, "clip", "e")
    request, back = {"model": "tiny", "suite": "quick", "concept": "cat"}, outcome.worst.back
    assert back is not None
    keep_attack([file], request, outcome, [], {})
    assert verified.checks_of(Path(file)) == ()  # no attack could be run
    keep_attack([file], request, outcome, [], {"worst_back": back.as_dict()})
    (check,) = verified.checks_of(Path(file))
    assert (check.command, check.gates, check.metrics["worst_back"]["value"], check.passed) == (
        "attack",
        (),
        1.0,
        False,
    )
    (line,) = verified.sentences([check])
    assert line.startswith("cat was attacked: worst_back 1.000, 95 % interval ")
    card = edit_card(Path(file), Edit.load(file).record, [check])
    assert "**Not yet verified.**" in card
    assert "cat was attacked" in card
    write_run(tmp_path, "erase", {"model": "tiny", "concepts": ["cat"]})
    assert "not yet verified" in excise("list", tmp_path)[1]
    keep_evaluation([file], document(), [])
    assert "not yet verified" not in excise("list", tmp_path)[1]
    assert "Not yet verified" not in edit_card(Path(file), Edit.load(file).record, verified.checks_of(Path(file)))


def test_the_page_of_an_evaluation_looks_for_attacks_on_every_concept_and_on_the_edits_together(pipe, tmp_path):
    files = [saved(pipe, tmp_path / "a" / "edit.safetensors"), saved(pipe, tmp_path / "b" / "edit.safetensors", 0.5)]
    hits = Outcome(["a cat"], [[True]], None, [["a cat"]], 2, 40, 3.0, 0.0)
    outcome = SuiteResult([Result("seeds", "seeds", {}, "black box", False, 1, hits, hits)], {}, False, "clip", "e")
    back = {"worst_back": hits.any_of_n.as_dict()}

    def answer(*edits):
        options = EvaluateOptions(model="tiny", edit=list(edits), source=Source())
        return attacked_by(options, tmp_path / "out", ["dog", "cat"])

    keep_attack(files[:1], {"model": "tiny", "suite": "quick", "concept": "cat"}, outcome, [], back)
    assert (answer(files[0]).state, "No attack on dog" in answer(files[0]).text) == ("bad", True)
    assert "--concept dog" in answer(files[0]).command
    assert (answer(*files).state, answer(*files).command) == ("open", "")
    keep_attack(files, {"model": "tiny", "suite": "quick", "concept": "dog"}, outcome, [], back)
    assert (answer(*files).state, "No attack on cat" in answer(*files).text) == ("bad", True)
    assert "No attack on dog" in answer(files[0]).text  # that of both edits says nothing of one


@pytest.mark.parametrize(("seen", "status"), [("cat", "verified"), ("car", "not verifiable")])
def test_the_verdict_of_a_fixed_protocol_reaches_the_card_of_an_export(
    excise, pipe, model, tmp_path, monkeypatch, seen, status
):
    """No gate is given; the judge sees `seen` in every picture of the untouched model, and then dogs."""
    worlds.register(monkeypatch)
    rounds = itertools.count()

    def verdicts(self, images):
        saw = seen if next(rounds) % 2 == 0 else "dog"
        return {"object": [saw] * len(images), "style": ["plain"] * len(images)}

    monkeypatch.setattr(worlds.PixelJudge, "verdicts", verdicts)
    small = worlds.small_world(seeds=6)
    monkeypatch.setattr(worlds, "small_world", lambda: small)
    file = saved(pipe, tmp_path / "edit.safetensors")
    words = ("evaluate", "--model", model, "--edit", file, "-c", "cat", "--protocol", "small-world", "--no-cache")
    found, _, err = excise(*words, "--out", tmp_path / "out")
    assert (found, f"cat: {status}: " in err, "excise export" in err) == (0, True, status == "verified"), err
    assert f"cat: {status}: " in (tmp_path / "out" / "report.html").read_text()
    (check,) = verified.checks_of(Path(file))
    assert check.verdicts["cat"].startswith(status)
    assert excise("export", file, "--model", model, "--out", tmp_path / "shipped")[0] == 0
    card = (tmp_path / "shipped" / "README.md").read_text()
    assert (f"cat: {status}: " in card, "Not yet verified" in card) == (True, False)
    found, _, err = excise(*words, "--out", tmp_path / "again", "--require", "ua>=0.1")
    assert (found, "gates passed: ua>=0.1" in err) == ((0, True) if status == "verified" else (1, False)), err


def test_numbers_that_prove_nothing_are_not_kept(pipe, tmp_path, capsys):
    file = saved(pipe, tmp_path / "edit.safetensors")
    keep_evaluation([file], {**document(), "verdicts": []}, [])
    keep_evaluation([], document(), parse_all(["ua>=0.7"]))
    assert not (tmp_path / verified.NAME).exists()
    assert capsys.readouterr().err.count("not recorded beside the edit") == 1


def test_a_policy_is_kept_beside_the_edit_in_force(pipe, tmp_path):
    file = Path(saved(pipe, tmp_path / "edit.safetensors"))
    entry = {
        "time": "2026-01-01T00:00:00+00:00",
        "model": {"name": "tiny"},
        "policy": "e" * 64,
        "edit": "d",
        "verified": None,
    }
    keep_policy(file, entry)
    assert verified.checks_of(file) == ()
    concepts = [
        {"name": "cat", "erased": CLEAN, "passed": True},
        {"name": "dog", "erased": None, "passed": False},
    ]
    result = {"judge": "clip", "pictures": 10, "gates": {"erased": 0.5, "retained": 0.8}, "concepts": concepts}
    keep_policy(file, {**entry, "verified": {**result, "retained": CLEAN, "retained_passed": False}})
    (check,) = verified.checks_of(file)
    assert {gate.gate: gate.passed for gate in check.gates} == {"erased>=0.5": False, "retained>=0.8": False}
    assert check.verdicts["dog"].startswith("not verifiable")
    assert check.metrics["erased"]["low"] == 0.7225
