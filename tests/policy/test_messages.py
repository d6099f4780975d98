"""What is said of a policy: counts with what they can prove, and what to set so that a gate can pass."""

from __future__ import annotations

import pytest

from excise.metrics.rates import needed_count, rate
from excise.policy.apply import AppliedPolicy
from excise.policy.messages import MOST_LINES, erased_fault, retained_fault, summary, verification_lines


def share(hits: int, n: int) -> dict[str, float]:
    return rate([True] * hits + [False] * (n - hits)).as_dict()


@pytest.mark.parametrize(
    ("hits", "n", "gate", "pictures", "sentence"),
    [
        (3, 3, 0.5, 3, "3 of 3 clean, but 3 pictures prove only 44 % or more (gate 50 %). Set `pictures: 4`"),
        (1, 1, 0.5, 1, "1 of 1 clean, but 1 picture proves only 21 % or more (gate 50 %). Set `pictures: 4`"),
        (3, 3, 0.5, 6, "3 of 3 clean, but 3 pictures prove only 44 % or more (gate 50 %). Set `pictures: 8`"),
        (9, 9, 0.703, 9, "9 of 9 clean, but 9 pictures prove only 70.0 % or more (gate 70 %). Set `pictures: 10`"),
    ],
)
def test_a_concept_with_too_few_pictures_is_told_how_many_it_takes(hits, n, gate, pictures, sentence):
    assert erased_fault(share(hits, n), gate, pictures) == f"{sentence} or more."


def test_a_concept_that_is_still_drawn_or_a_gate_beyond_reach_needs_something_else():
    wanted = "1 of 3 clean (gate 50 %). Use another method, or stronger settings."
    assert erased_fault(share(1, 3), 0.5, 3) == wanted
    wanted = "8 of 10 clean, but 10 pictures prove only 49 % or more (gate 50 %): it is still seen in 2. Use another "
    assert erased_fault(share(8, 10), 0.5, 10) == f"{wanted}method, or stronger settings."  # never more pictures
    wanted = "(gate 100 %). No number of pictures proves that share; lower the gate `erased`."
    assert erased_fault(share(3, 3), 1.0, 3).endswith(wanted)


def test_a_concept_that_is_never_seen_cannot_be_verified():
    wanted = "cannot be verified: the judge sees it in none of 2 pictures of the untouched model."
    assert erased_fault(None, 0.5, 2) == wanted


@pytest.mark.parametrize(
    ("hits", "n", "gate", "sentence"),
    [
        (1, 1, 0.8, ", which proves only 21 % or more (gate 80 %). It takes 16 or more: add names to `preserve`."),
        (46, 56, 0.75, ", which proves only 70 % or more (gate 75 %). It takes 145 or more: add names to `preserve`."),
        (10, 20, 0.8, " (gate 80 %). Add names to `preserve`, or use a gentler method or settings."),
    ],
)  # fmt: skip
def test_retained_names_that_fail_are_told_what_would_pass(hits, n, gate, sentence):
    assert retained_fault(share(hits, n), gate) == f"{hits} of {n} still right{sentence}"


@pytest.mark.parametrize(("value", "gate"), [(1.0, 0.5), (1.0, 0.8), (0.9, 0.8), (0.75, 0.5)])
def test_the_needed_count_is_the_least_that_passes(value, gate):
    needed = needed_count(value, gate)
    lows = [rate([True] * int(value * n) + [False] * (n - int(value * n))).low for n in range(1, needed + 1)]
    assert lows[-1] >= gate > max(lows[:-1])


def verified(concepts, retained=None, retained_passed=True):
    return {
        "judge": "j",
        "pictures": 4,
        "gates": {"erased": 0.5, "retained": 0.8},
        "concepts": concepts,
        "retained": retained,
        "retained_passed": retained_passed,
        "passed": False,
    }


def test_failed_gates_are_named_up_to_a_limit():
    concepts = [{"name": f"c{i}", "erased": None, "passed": i == 0} for i in range(MOST_LINES + 4)]
    lines = verification_lines(verified(concepts, share(2, 4), retained_passed=False))
    assert lines[0] == f"verified by j: 1 of {MOST_LINES + 4} concepts pass; 2 of 4 retained names still right"
    assert lines[1] == "c1: cannot be verified: the judge sees it in none of 4 pictures of the untouched model."
    assert lines[-3:] == [
        "3 more concepts fail; the report names them all",
        "to verify what is not verifiable: set `judge` in the policy to another CLIP folder, or try other words with "
        "excise evaluate --ask FILE",
        "retained names: 2 of 4 still right (gate 80 %). Add names to `preserve`, or use a gentler method or settings.",
    ]
    assert len(lines) == 1 + MOST_LINES + 3


def test_what_is_still_seen_is_in_the_first_line_whether_it_passes_or_not():
    rows = [{"name": "cat", "erased": share(11, 14), "passed": True}, {"name": "dog", "erased": None, "passed": False}]
    assert "1 of 2 concepts pass (still seen: cat in 3 of 14)" in verification_lines(verified(rows))[0]


def test_a_passing_policy_and_one_without_a_judge_take_a_line():
    passing = verified([{"name": "cat", "erased": share(4, 4), "passed": True}])
    assert verification_lines(passing) == ["verified by j: 1 of 1 concept passes"]
    assert verification_lines(None) == [
        "not verified: there is no judge. Set `judge` in the policy to the folder of a CLIP model."
    ]


def test_the_summary_says_what_was_changed():
    entry = {
        "n": 3,
        "model": {"name": "./sd"},
        "in_force": [{"name": "cat"}, {"name": "dog"}],
        "added": ["cat", "dog"],
        "removed": [],
    }
    changes = "(2 new: cat, dog; 0 restored); 2 of 2 edits rebuilt."
    one = {"concepts": [{"passed": True}, {"passed": False}]}
    for seen, state in (
        (None, "edit written for 2 concepts, not yet verified"),
        (one, "1 of 2 concepts verified as removed"),
    ):
        assert summary(AppliedPolicy(True, 2, 2, {**entry, "verified": seen})) == f"./sd: {state} {changes}"
    alone = {**entry, "in_force": [{"name": "cat"}]}
    wanted = "nothing changed: 1 concept is in force already, as the policy asks (ledger entry 3)."
    assert summary(AppliedPolicy(False, 0, 1, alone)) == wanted
