"""The page of a suite of attacks: its first sentence, and a row for every attack."""

from __future__ import annotations

import pytest

from excise.attacks.accounting import Outcome, Result
from excise.attacks.suite import SuiteResult
from excise.edits.verified import Check
from excise.report.answers import Evidence
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


TAUGHT = {"value": 1.0, "low": 0.7, "high": 1.0, "n": 9.0}
COMMANDS = {"cat": "excise attack -c cat", "dog": "excise attack -c dog"}


def before(*checks: Check, concepts=("cat",), beside=()):
    return attacked_before(checks, concepts, "m", COMMANDS, beside)


def test_an_earlier_attack_answers_on_the_page_of_an_evaluation():
    answer = before(checked(worst_back=CLEAN))
    assert (answer.state, answer.command) == ("good", "")
    assert "2026-01-02, judged by clip" in dict(answer.figures)["tested by"]
    assert before(checked(worst_back=CLEAN, taught_back=TAUGHT)).word == "Not sure"
    assert before(checked(worst_back=TAUGHT)).state == "bad"
    assert before(checked(worst_gap=TAUGHT)).state == "bad"
    for checks in ([], [checked(worst_back=CLEAN).model_copy(update={"concepts": ("dog",)})]):
        answer = before(*checks)
        assert (answer.state, answer.word, answer.command) == ("open", "Not tested", "excise attack -c cat")
        assert "No attack" in answer.text
        assert "is on record" in answer.text
    assert untested().command == ""
    assert "tried" not in untested().text  # only the record is known here


@pytest.mark.parametrize(
    ("metrics", "part"), [({}, "could be run"), ({"taught_back": TAUGHT}, "shows the model pictures of the concept")]
)
def test_attacks_on_record_that_tell_nothing_are_not_said_to_be_missing(metrics, part):
    answer = before(checked(**metrics))
    assert (answer.state, answer.word, answer.command) == ("open", "Not tested", "excise attack -c cat")
    assert part in answer.text
    assert "is on record" not in answer.text


OTHER = [{"beside": ("d" * 64,)}, {"other_base": True}, {"model": "another"}]


@pytest.mark.parametrize("more", OTHER)
def test_a_check_of_more_than_this_edit_or_of_another_model_answers_nothing(more):
    attack = checked(worst_back=CLEAN).model_copy(update=more)
    assert before(attack).word == "Not tested"
    assert before(checked(worst_back=TAUGHT), attack).state == "bad"
    verdicts = {"cat": "verified: 9 of 9 clean (at least 70 %)"}
    evaluation = checked(ira_relative=TAUGHT).model_copy(update={"command": "evaluate", "verdicts": verdicts, **more})
    assert Evidence.from_checks([evaluation], "cat", "m").judge is None
    alone = evaluation.model_copy(update={"model": "m", "beside": (), "other_base": False})
    assert Evidence.from_checks([alone, evaluation], "cat", "m").verdicts[0].status == "verified"


def test_edits_that_are_applied_together_are_answered_by_an_attack_on_all_of_them():
    both = checked(worst_back=TAUGHT).model_copy(update={"beside": ("d" * 64,)})
    assert before(checked(worst_back=CLEAN), both, beside=("d" * 64,)).state == "bad"
    assert before(checked(worst_back=CLEAN), beside=("d" * 64,)).word == "Not tested"


@pytest.mark.parametrize("back", [False, True])
def test_the_worst_attack_on_record_answers_and_not_the_last(back):
    weak, strong = checked(worst_back=CLEAN), checked(worst_back=TAUGHT)
    answer = before(*([weak, strong] if back else [strong, weak]))
    assert (answer.state, answer.word) == ("bad", "Yes")
    assert dict(answer.figures)["attacks on record"] == "2 runs, of which this is the worst"
    assert before(checked(worst_gap=CLEAN | {"high": 0.6}), weak).word == "Not sure"


@pytest.mark.parametrize(
    ("cat", "dog", "state", "word", "line"),
    [
        (CLEAN, CLEAN, "good", "Not in these attacks", "good"),
        (CLEAN, TAUGHT, "bad", "Yes", "bad"),
        (CLEAN, None, "warn", "In part", "open"),
        (TAUGHT, None, "bad", "Yes", "open"),
        (None, None, "open", "Not tested", "open"),
    ],
)
def test_of_several_concepts_the_worst_answers_and_those_not_attacked_are_named(cat, dog, state, word, line):
    measured = {"cat": cat, "dog": dog}
    checks = [checked(worst_back=m).model_copy(update={"concepts": (c,)}) for c, m in measured.items() if m]
    answer = before(*checks, concepts=("cat", "dog"))
    assert (answer.state, answer.word) == (state, word)
    assert [text.partition(":")[0] for text, _ in answer.lines] == ["cat", "dog"]
    assert answer.lines[1][1] == line
    assert ("No attack on dog" in answer.text) == (cat is not None and dog is None)
    assert answer.command == ("" if dog else COMMANDS["dog" if cat else "cat"])


def test_of_many_concepts_those_that_are_not_in_order_stand_in_lines():
    names = [f"c{i}" for i in range(40)]
    checks = [checked(worst_back=CLEAN).model_copy(update={"concepts": (n,)}) for n in names[1:]]
    answer = attacked_before(checks, names, "m", {n: f"attack {n}" for n in names})
    assert [text for text, _ in answer.lines if text.startswith("c0:")]
    assert len(answer.lines) == 2
    assert (answer.word, answer.command) == ("In part", "attack c0")


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


def test_a_weaker_attack_does_not_hide_that_an_earlier_one_recovered_the_concept(tmp_path):
    nothing, earlier = attacked(result("seeds", *[False] * 9)), checked(worst_back=TAUGHT)
    for check, recovered in ((earlier, True), (earlier.model_copy(update={"other_base": True}), False)):
        page = write_page(nothing, "m", "cat", ["a.safetensors"], "quick", tmp_path, [check]).read_text()
        assert ("An earlier attack on record: An attack recovered it" in page) == recovered
        assert ("Not in these attacks" in page) != recovered
    assert answer_of(nothing, [checked(worst_back=CLEAN)], "cat", "m").lines == []
    broken = attacked(result("swap", why="the base is missing"))
    assert answer_of(broken, [earlier], "cat", "m").state == "bad"


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
