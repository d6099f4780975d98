"""What was verified stands beside the edit, by the digest of the edit, and the edit stays as it is."""

from __future__ import annotations

import json

import pytest
from checks import check
from situations import uce

from excise.edits import verified
from excise.errors import ExciseWarning


@pytest.fixture
def edit(pipe, tmp_path):
    return uce(pipe).save(tmp_path / "edit.safetensors")


def test_a_check_is_of_the_very_edit(edit, pipe):
    before = edit.read_bytes()
    assert verified.checks_of(edit) == ()
    verified.keep(edit, check())
    assert edit.read_bytes() == before
    assert verified.checks_of(edit) == (check(time=verified.checks_of(edit)[0].time),)
    uce(pipe).scaled(0.5).save(edit)
    assert verified.checks_of(edit) == ()
    edit.write_bytes(before)
    assert len(verified.checks_of(edit)) == 1


def test_the_same_question_has_one_answer_and_another_question_its_own(edit):
    verified.keep(edit, check(time="2026-01-01T00:00:00+00:00"))
    verified.keep(edit, check(time="2026-01-02T00:00:00+00:00"))  # the same again, as from a cache
    assert [c.time[:10] for c in verified.checks_of(edit)] == ["2026-01-01"]
    worse = check(verdicts={"cat": "not removed: 1 of 10 clean (at least 0 %)"}, gates=())
    verified.keep(edit, worse)
    assert len(verified.checks_of(edit)) == 2
    failed = verified.Gate(gate="ua>=0.7", metric="ua", passed=False)
    verified.keep(edit, check(gates=(failed,)))
    assert [c.passed for c in verified.checks_of(edit)] == [False, False]
    text = " ".join(verified.sentences(verified.checks_of(edit)))
    assert "gate ua>=0.7 FAILED: 1.000, 95 % interval 0.723 to 1.000, n = 10 [concept (hash ffffffffffff)" in text


def test_a_damaged_file_counts_as_not_verified(edit):
    verified.keep(edit, check())
    for text in ("{", "[]", '{"edits": {"a": 3}}'):
        (edit.parent / verified.NAME).write_text(text)
        with pytest.warns(ExciseWarning, match="counts as not verified"):
            assert verified.checks_of(edit) == ()
    digest = verified.file_digest(edit)
    (edit.parent / verified.NAME).write_text(json.dumps({"edits": {digest: [{"time": 3}]}}))
    with pytest.warns(ExciseWarning, match="counts as not verified"):
        assert verified.checks_of(edit) == ()
