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
    weak = Evidence(["cat"], metrics={"ira": share(70, 100)}, untouched={"ira": share(71, 100)}, judge="j")
    assert kept(weak).state == "good"  # a model that was often wrong before is not blamed for it
    unknown = Evidence(["cat"], metrics={"ira": share(100, 100)}, judge="j")
    assert (kept(unknown).state, "is not known here" in kept(unknown).text) == ("warn", True)


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
        ((10, 10), "judge-b", (1, 50), "good", "Two judges agree"),
        ((10, 10), "judge-b", (12, 50), "warn", "The judges disagree"),
        ((10, 10), None, None, "warn", "One judge alone"),
        ((3, 3), "judge-b", (1, 50), "warn", "Not very"),
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
