"""The ledger for an auditor: who requested, why, how it was verified, who withdrew it; and whether it is intact."""

from __future__ import annotations

import json
import re

import pytest

from excise.errors import ConceptError
from excise.policy import ledger
from excise.policy.history import Event, histories, verdict_of
from excise.policy.policy import read

POLICY = """
schema: 1
model: {model}
methods: {{default: uce}}
vocabulary: none
preserve: [tree]
concepts:
  - {{name: cat, requested_by: "Cat <Ltd>", date: 2026-03-01, reference: T-1, reason: licence ended}}
  - {{name: dog, requested_by: Kennel}}
"""


@pytest.fixture
def applied(excise, model, tmp_path):
    """A folder in which two concepts were removed, and one of them was given back."""
    path, out = tmp_path / "policy.yaml", tmp_path / "out"
    path.write_text(POLICY.format(model=model))
    assert excise("apply", path, "--out", out)[0] == 0
    text = path.read_text()
    lines = [line for line in text.splitlines() if "name: dog" not in line]
    withdrawal = "withdrawn:\n  - {name: Dog, withdrawn_by: Kennel, date: 2026-05-02, reason: settled}\n"
    path.write_text("\n".join(lines) + "\n" + withdrawal)
    status, _, error = excise("apply", path, "--out", out)
    assert status == 0, error
    return out


def test_who_requested_and_who_withdrew_is_shown(excise, applied, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    status, text, error = excise("ledger", applied)
    assert status == 0
    assert error.startswith("The ledger is intact: 2 entries")
    words = " ".join(text.split())
    for part in ("requested by", "Cat <Ltd>", "T-1:", "licence ended", "restored", "settled"):
        assert part in words, part
    _, text, _ = excise("ledger", applied, "--json")
    entries = json.loads(text)
    assert entries[0]["in_force"][0]["reason"] == "licence ended"
    assert "reason" not in entries[0]["in_force"][1]
    assert "withdrawn" not in entries[0]
    assert entries[1]["withdrawn"][0]["withdrawn_by"] == "Kennel"
    cat, dog = histories(entries)
    assert (cat.removed, cat.removed_in, cat.request.text()) == (True, 1, "Cat <Ltd>, 2026-03-01, T-1: licence ended")
    assert (dog.removed, dog.restored_in, dog.withdrawal) == (False, 2, Event("Kennel", "2026-05-02", "", "settled"))
    assert cat.verdict_text == "not verified: there was no judge"
    assert dog.verdict_text == "while it was removed: not verified: there was no judge"


def test_the_page_begins_with_the_verdict_and_has_a_row_for_each_concept(excise, applied, tmp_path):
    page = tmp_path / "audit.html"
    status, _, error = excise("ledger", applied, "--out", page)
    assert status == 0
    assert f"page: {page}" in error
    html = page.read_text()
    body = re.sub(r"<[^>]+>", " ", html.partition("<body>")[2]).split()
    assert " ".join(body).startswith("The ledger is intact: 2 entries, each chained to the one before.")
    assert html.count('<th scope="row">') == 2 + 2  # concepts, and entries
    assert "Cat &lt;Ltd&gt;" in html
    assert "Kennel, 2026-05-02: settled" in html
    assert "<script" not in html


def test_a_page_of_a_broken_ledger_names_the_first_wrong_line(excise, applied, tmp_path):
    path, page = applied / ledger.NAME, tmp_path / "audit.html"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], lines[1].replace("settled", "lost")]) + "\n")
    status, _, error = excise("ledger", applied, "--out", page)
    assert status == 2
    assert "line 2 was changed" in error
    html = page.read_text()
    assert re.search(r"<h1>The ledger is NOT intact: .* line 2 was changed", html)
    assert html.count('<th scope="row">') == 2 + 1  # both concepts of the first entry, which is intact
    path.write_text("not json\n")
    assert excise("ledger", applied, "--out", page)[0] == 2
    assert "line 1 is no entry" in page.read_text()


def test_another_edit_in_the_folder_is_told(excise, applied, tmp_path):
    edit, page = applied / "edit.safetensors", tmp_path / "audit.html"
    edit.unlink()
    status, _, error = excise("ledger", applied, "--out", page)
    assert status == 0  # a copy of the ledger alone may be audited
    assert "the edit of entry 2 is not in this folder" in error
    edit.write_bytes(b"something else")
    status, _, error = excise("ledger", applied, "--out", page)
    assert status == 2
    assert "is not the edit of entry 2" in page.read_text()


def test_a_policy_that_withdraws_what_it_removes_is_refused(model, tmp_path):
    path = tmp_path / "policy.yaml"
    before = read_after(path, POLICY.format(model=model))
    assert before == read_after(path, POLICY.format(model=model) + "withdrawn: []\n")
    for names, message in (("[cat]", "`concepts` and in `withdrawn`"), ("[fox, Fox]", "withdrawn twice")):
        with pytest.raises(ConceptError, match=message):
            read_after(path, POLICY.format(model=model) + f"withdrawn: {names}\n")


def read_after(path, text: str) -> str:
    path.write_text(text)
    return read(path)[1]


def test_a_verdict_is_a_sentence_with_its_numbers():
    clean = {"value": 1.0, "low": 0.7225, "high": 1.0, "n": 10}
    verified = {"concepts": [{"name": "cat", "erased": clean}, {"name": "dog", "erased": None}]}
    entry = {"verified": {**verified, "gates": {"erased": 0.5}, "pictures": 10}}
    assert verdict_of(entry, "cat") == "verified: 10 of 10 clean (at least 72 %)"
    assert verdict_of(entry, "dog") == "not verifiable: the untouched model shows it in none of 10 pictures"
    assert verdict_of(entry, "fox") == "not verified"
