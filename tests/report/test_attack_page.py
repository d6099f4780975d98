"""The page of a suite of attacks: its first sentence, and a row for every attack."""

from __future__ import annotations

import pytest

from excise.attacks.accounting import Outcome, Result
from excise.attacks.suite import SuiteResult
from excise.edits.verified import Check
from excise.report.attack_answers import attacked as answer_of
from excise.report.attack_answers import attacked_before, untested
from excise.report.attack_page import document, lead, notes, write_page


def outcome(*hits: bool) -> Outcome:
    """An outcome with one image for each test prompt."""
    return Outcome([f"p{i}" for i in range(len(hits))], [[h] for h in hits], None, [["w"]] * len(hits), 2, 40, 3.0, 0.0)


def attacked(*results: Result, oracle: bool = False) -> SuiteResult:
    return SuiteResult(list(results), {r.name: [] for r in results}, oracle, "judge")


def result(name: str, *hits: bool, teaches: bool = False, **more) -> Result:
    model = outcome(*hits) if hits else None
    return Result(
        name, name, {}, "black box", teaches, 4, model, outcome(*[False] * len(hits)) if hits else None, **more
    )


@pytest.mark.parametrize(
    ("results", "sentence"),
    [
        ([result("seeds", False, False), result("words", False, False)], "0 of 2 attacks recovered the concept."),
        (
            [result("seeds", True, False), result("words", False, False), result("swap", True, True, teaches=True)],
            "1 of 2 attacks recovered the concept; the strongest, seeds, on 50 % of the prompts.",
        ),
    ],
)
def test_without_an_oracle_the_lead_counts_attacks_that_do_not_teach(results, sentence):
    text = lead(attacked(*results))
    assert text.startswith(sentence)
    assert ("--oracle" in text) == any(r.teaches for r in results)


def test_the_page_never_calls_a_recovered_concept_gone():
    taught = result("inversion", True, True, teaches=True)
    answer = answer_of(attacked(result("seeds", False, False), taught))
    assert (answer.state, answer.word) == ("warn", "Not sure")
    assert "1 of 1 attack that show the model pictures of it recovers it" in answer.lines[0][0]
    assert "1 of 1 did, inversion on 100 % of the prompts" in lead(attacked(result("seeds", False, False), taught))
    swapped = attacked(result("seeds", True, False), result("swap", why="only the text encoder was changed"))
    answer, (note,) = answer_of(swapped), notes(swapped)
    assert (answer.state, answer.word) == ("bad", "Yes")
    assert answer.text == "1 of 1 attack recovered it; the strongest, seeds, on 1 of 2 prompts."
    assert (note.state, note.text) == ("warn", "Only the text encoder was changed")


@pytest.mark.parametrize(
    ("results", "oracle", "state", "word"),
    [
        ([result("seeds", *[False] * 8)], False, "good", "Not in these attacks"),
        ([result("seeds", False, False)], False, "warn", "Not sure"),  # so few prompts leave up to 66 %
        ([result("seeds", *[True, False] * 8)], False, "bad", "Yes"),
        ([result("swap", why="the base is missing")], False, "open", "Not tested"),
        ([result("inversion", True, teaches=True)], False, "open", "Not tested"),
        ([result("seeds", *[True] * 9, oracle=outcome(*[False] * 9))], True, "bad", "Yes"),
        ([result("seeds", True, False, oracle=outcome(False, False))], True, "warn", "Not sure"),
        ([result("seeds", *[True] * 20, oracle=outcome(*[True] * 20))], True, "good", "Not in these attacks"),
    ],
)
def test_the_answer_is_never_more_than_the_prompts_prove(results, oracle, state, word):
    answer = answer_of(attacked(*results, oracle=oracle))
    assert (answer.state, answer.word) == (state, word)
    named = dict(answer.figures)
    assert ("95 % interval" in named) == (state != "open")
    assert (("held to" in named) and "prompt" in " ".join(named.values())) == (state != "open")


CLEAN = {"value": 0.0, "low": 0.0, "high": 0.3, "n": 9.0}


def checked(**metrics: dict[str, float]) -> Check:
    return Check(
        time="2026-01-02T00:00:00", excise="0", command="attack", model="m", protocol="attacks of the suite 'quick'",
        hash="e" * 64, judge="clip", concepts=("cat",), metrics=metrics,
    )  # fmt: skip


def test_an_earlier_attack_answers_on_the_page_of_an_evaluation():
    answer = attacked_before([checked(worst_back=CLEAN)], "cat", "excise attack")
    assert (answer.state, answer.command) == ("good", "")
    assert "2026-01-02, judged by clip" in dict(answer.figures)["tested by"]
    taught = {"value": 1.0, "low": 0.7, "high": 1.0, "n": 9.0}
    assert attacked_before([checked(worst_back=CLEAN, taught_back=taught)], "cat").word == "Not sure"
    assert attacked_before([checked(worst_back=taught)], "cat").state == "bad"
    assert attacked_before([checked(worst_gap=taught)], "cat").state == "bad"
    for checks in ([], [checked(worst_back=CLEAN).model_copy(update={"concepts": ("dog",)})], [checked()]):
        answer = attacked_before(checks, "cat", "excise attack")
        assert (answer.state, answer.word, answer.command) == ("open", "Not tested", "excise attack")
    assert untested().command == ""


def test_the_page_of_attacks_begins_with_what_was_verified_before(tmp_path):
    share = {"value": 1.0, "low": 0.9, "high": 1.0, "n": 40.0}
    check = checked(ira_relative=share).model_copy(
        update={
            "command": "evaluate",
            "protocol": "concept",
            "verdicts": {"cat": "verified: 9 of 9 clean (at least 70 %)"},
        }
    )
    nothing = attacked(result("seeds", *[False] * 9))
    page = write_page(nothing, "m", "cat", ["run/edit.safetensors"], "quick", tmp_path, [check]).read_text()
    assert page.count("Yes, in these pictures") == 2
    assert "excise evaluate of 2026-01-02, protocol concept" in page
    page = write_page(nothing, "m", "cat", ["run/edit.safetensors"], "quick", tmp_path).read_text()
    assert page.count("Attacks do not measure that.") == 2
    assert "excise evaluate --model m --edit run/edit.safetensors --concept cat --out run-evaluation" in page


def test_with_an_oracle_the_lead_is_the_gap():
    strong = result("seeds", True, True, oracle=outcome(True, False))
    assert "seeds, recovers the concept 50 points more often" in lead(attacked(strong, oracle=True))
    even = result("seeds", True, True, oracle=outcome(True, True))
    assert lead(attacked(even, oracle=True)).startswith("No attack recovers the concept more often")


def test_nothing_could_be_run(tmp_path):
    nothing = attacked(result("swap", why="the <base> is missing"))
    assert lead(nothing) == "No attack could be run."
    page = write_page(nothing, "m", "cat", ["a.safetensors"], "quick", tmp_path).read_text()
    assert "not run: the &lt;base&gt; is missing" in page
    assert "with one edit applied" in page
    assert document(nothing)["worst_attack"] is None


def test_a_row_shows_the_share_of_every_model_the_gap_and_the_cost(tmp_path):
    found = attacked(result("seeds", True, False, oracle=outcome(False, False)), oracle=True)
    page = write_page(found, "m", "cat", [], "quick", tmp_path).read_text()
    for part in (">50.0 %<", ">0.0 %<", ">+50<", "4 images a prompt, 2 prompts, 40 denoiser passes, 3 s"):
        assert part in page
    assert page.count('class="bar"') == 3
