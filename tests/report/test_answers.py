"""The verdict panel: each state of each answer, and never more than the pictures prove."""

from __future__ import annotations

import pytest
from test_run_page import PLAN, evaluation

from excise.evaluation.verdict import ConceptVerdict, status_of
from excise.metrics.rates import rate
from excise.protocols.concept import NO_JUDGE
from excise.report.answers import Evidence, answers, gone, kept, read_verdict, sure
from excise.report.attack_answers import untested
from excise.report.html import Answer


def share(hits: int, n: int) -> dict[str, float]:
    return rate([True] * hits + [False] * (n - hits)).as_dict()


def verdict(hits: int, n: int, concept: str = "cat") -> ConceptVerdict:
    clean = rate([True] * hits + [False] * (n - hits)) if n else None
    return ConceptVerdict(
        concept=concept, status=status_of(clean), images=n or 10, clean=clean.as_dict() if clean else None
    )


def evidence(*verdicts: ConceptVerdict, second: str | None = None, **metrics: dict[str, float]) -> Evidence:
    return Evidence([v.concept for v in verdicts], verdicts, metrics, {}, "judge-a", second)


@pytest.mark.parametrize(
    ("hits", "n", "state", "word", "held"),
    [
        (10, 10, "good", "Yes, in these pictures", "held"),
        (97, 100, "warn", "Mostly", "held"),  # three pictures still show it
        (3, 3, "warn", "Not sure", "undecided"),  # all are clean, but three cannot prove half
        (4, 9, "warn", "Not sure", "undecided"),  # below half, with an interval across it
        (1, 20, "bad", "No", "missed"),
        (0, 0, "open", "Not measurable", ""),
    ],
)
def test_gone_is_what_the_interval_says(hits, n, state, word, held):
    answer = gone(evidence(verdict(hits, n)))
    assert (answer.state, answer.word) == (state, word)
    figures = dict(answer.figures)
    if n:
        assert f"of {n} pictures" in figures["gone from"]
        assert figures["95 % interval"].endswith(" %")
        assert figures["held to"] == f"lower end at least 50 %: {held}"
        assert (f"in {n - hits} of the" in answer.text) == (hits < n)
    else:
        assert "nothing shows that it has gone" in answer.text
        assert "--ask" in answer.advice


@pytest.mark.parametrize(
    ("parts", "state", "word"),
    [
        ([(10, 10), (12, 12)], "good", "Yes, in these pictures"),
        ([(10, 10), (0, 0)], "warn", "In part"),
        ([(10, 10), (97, 100)], "warn", "Mostly"),
        ([(97, 100), (3, 3)], "warn", "Not sure"),
        ([(10, 10), (3, 3), (0, 20)], "bad", "No"),
        ([(0, 0), (0, 0)], "open", "Not measurable"),
    ],
)
def test_several_concepts_are_as_gone_as_the_worst_of_them(parts, state, word):
    verdicts = [verdict(*part, concept=f"c{i}") for i, part in enumerate(parts)]
    answer = gone(evidence(*verdicts))
    assert (answer.state, answer.word) == (state, word)
    assert [line.partition(":")[0] for line, _ in answer.lines] == [v.concept for v in verdicts]


def test_without_the_untouched_model_nothing_is_said_to_be_gone():
    alone = Evidence(["cat"], metrics={"ua": share(100, 100)}, judge="judge-a")
    assert (gone(alone).state, gone(alone).word) == ("warn", "Not sure")
    assert "sees cat in none of 100 pictures" in gone(alone).text
    assert "is not known here" in gone(alone).text
    assert gone(Evidence(["cat"], metrics={"acc_e": share(95, 100)}, judge="judge-a")).word == "No"
    assert gone(Evidence(["cat"], judge="judge-a")).text == "No judged picture asks for it by its name."


@pytest.mark.parametrize(
    ("hits", "n", "state", "word"),
    [
        (46, 46, "good", "Yes, in these pictures"),
        (95, 100, "good", "Mostly"),
        (8, 10, "warn", "Not sure"),
        (7, 7, "warn", "Not sure"),
        (50, 100, "bad", "No"),
    ],
)
def test_the_rest_is_held_to_what_the_untouched_model_got_right(hits, n, state, word):
    answer = kept(evidence(ira_relative=share(hits, n), ira_near=share(3, 4)))
    assert (answer.state, answer.word) == (state, word)
    assert dict(answer.figures)["held to"].startswith("lower end at least 80 %")
    assert dict(answer.figures)["nearest names"].startswith("3 of 4 right")


def test_the_worse_of_two_retained_shares_counts_beside_the_untouched_model():
    before = {"ira": share(90, 100), "cra": share(100, 100)}
    both = Evidence(["cat"], metrics={"ira": share(88, 100), "cra": share(60, 100)}, untouched=before, judge="j")
    answer = kept(both)
    assert (answer.state, "60 of 100" in answer.text, "(CRA)" in answer.text) == ("bad", True, True)
    weak = Evidence(["cat"], metrics={"ira": share(700, 1000)}, untouched={"ira": share(710, 1000)}, judge="j")
    assert kept(weak).state == "good"  # a model that was often wrong before is not blamed for it


@pytest.mark.parametrize("hits", [0, 40, 100])
def test_without_the_untouched_model_nothing_is_said_to_be_kept_or_lost(hits):
    unknown = Evidence(["cat"], metrics={"ira": share(hits, 100)}, judge="j")  # it may have been as wrong before
    assert (kept(unknown).state, kept(unknown).word) == ("warn", "Not sure")
    assert "is not known here" in kept(unknown).text


@pytest.mark.parametrize(
    ("before", "after", "state", "word"),
    [
        ((2, 20), (2, 20), "warn", "Not sure"),  # 2 of 20 may be up to 30 %
        ((70, 100), (70, 100), "warn", "Not sure"),  # the 70 of before may be 78
        ((100, 100), (100, 100), "good", "Yes, in these pictures"),
        ((1000, 1000), (950, 1000), "good", "Mostly"),
        ((100, 100), (60, 100), "bad", "No"),
        ((3, 3), (1, 3), "warn", "Not sure"),
        ((10, 20), (3, 20), "warn", "Not sure"),  # the 10 of before may be 6
        ((0, 100), (0, 100), "open", "Not measurable"),
        ((0, 100), (50, 100), "open", "Not measurable"),
    ],
)
def test_the_untouched_models_share_is_itself_an_interval(before, after, state, word):
    both = Evidence(["cat"], metrics={"ira": share(*after)}, untouched={"ira": share(*before)}, judge="j")
    answer = kept(both)
    assert (answer.state, answer.word) == (state, word)
    assert ("of the untouched model" in dict(answer.figures).get("held to", "")) == (state != "open")
    assert ("the untouched model shows none" in answer.text) == (state == "open")


def test_what_was_never_right_before_leaves_a_part_open():
    before = {"ira": share(0, 100), "cra": share(100, 100)}
    for after, state, word in ((100, "warn", "In part"), (50, "bad", "No")):
        both = Evidence(["cat"], metrics={"ira": share(0, 100), "cra": share(after, 100)}, untouched=before, judge="j")
        assert (kept(both).state, kept(both).word) == (state, word)
        assert any("IRA" in line and state == "open" for line, state in kept(both).lines)


def test_no_judge_means_pictures_only():
    plan = {**PLAN, "judge": NO_JUDGE}
    result = evaluation("concept", {"drift": 0.02}).model_copy(update={"protocol_summary": plan, "concepts": ["cat"]})
    panel = answers(Evidence.of(result), untested("excise attack"), measure="excise evaluate")
    assert [a.state for a in panel] == ["open"] * 4
    assert [a.word for a in panel] == ["Not measured", "Not measured", "Pictures only", "Not tested"]
    assert "Not verified" in panel[0].text
    assert "moved by 0.0200 on average" in panel[1].text
    assert (panel[0].command, panel[3].command) == ("excise evaluate", "excise attack")


@pytest.mark.parametrize(
    ("first", "second_judge", "differ", "state", "word"),
    [
        ((10, 10), "judge-b", (1, 100), "good", "Two judges agree"),
        ((10, 10), "judge-b", (0, 3), "warn", "Not very"),  # three pictures leave up to 56 %
        ((10, 10), "judge-b", (1, 50), "warn", "Not very"),
        ((10, 10), "judge-b", (12, 100), "warn", "The judges disagree"),
        ((10, 10), "judge-b", (12, 50), "warn", "The judges disagree"),
        ((10, 10), None, None, "warn", "One judge alone"),
        ((3, 3), "judge-b", (1, 100), "warn", "Not very"),
    ],
)
def test_how_sure_that_is_depends_on_intervals_and_judges(first, second_judge, differ, state, word):
    more = {"judges_disagree": share(*differ)} if differ else {}
    known = evidence(verdict(*first), second=second_judge, ira_relative=share(46, 46), abstain=share(5, 56), **more)
    answer = sure(known, gone(known), kept(known))
    assert (answer.state, answer.word) == (state, word)
    figures = dict(answer.figures)
    assert figures["judge"] == "judge-a"
    assert "of 56 pictures" in figures["judge abstains"]
    assert ("they differ" in figures) == bool(differ)
    assert "10 %" in figures["held to"]


@pytest.mark.parametrize("missing", ["first", "second", "one concept"])
def test_judges_that_agree_on_a_part_leave_the_rest_open(missing):
    verdicts = {"first": [verdict(0, 0)], "one concept": [verdict(10, 10), verdict(0, 0, "dog")]}.get(missing)
    rest = {} if missing == "second" else {"ira_relative": share(46, 46)}
    known = evidence(*(verdicts or [verdict(10, 10)]), second="b", judges_disagree=share(1, 100), **rest)
    first, second = gone(known), kept(known)
    answer = sure(known, first, second)
    assert (answer.state, answer.word) == ("warn", "In part")
    assert (second if missing == "second" else first).question in answer.text


def test_nothing_measured_is_not_sure_of_anything():
    nothing = Answer("?", "open", "Not measured", "")
    assert sure(Evidence(["cat"], judge="j"), nothing, nothing).state == "open"


@pytest.mark.parametrize("hits", [10, 4, 0])
def test_a_kept_verdict_is_read_as_it_was_written(hits):
    written = verdict(hits, 10)
    assert read_verdict("cat", written.sentence()) == written
    unseen = verdict(0, 0)
    assert read_verdict("cat", unseen.sentence()) == unseen
    assert read_verdict("cat", "something else") is None
    assert read_verdict("cat", "splendid: 3 of 4 clean") is None
