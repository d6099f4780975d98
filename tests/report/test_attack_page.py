"""The page of a suite of attacks: its first sentence, and a row for every attack."""

from __future__ import annotations

import pytest

from excise.attacks.accounting import Outcome, Result
from excise.attacks.suite import SuiteResult
from excise.report.attack_page import banners, document, lead, write_page


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
    first, *rest = banners(attacked(result("seeds", False, False), taught))
    assert (first.state, rest) == ("warn", [])
    assert first.text == "No attack recovered the concept, except some that show the model images of it."
    assert "1 of 1 did, inversion on 100 % of the prompts" in lead(attacked(result("seeds", False, False), taught))
    first, second = banners(
        attacked(result("seeds", True, False), result("swap", why="only the text encoder was changed"))
    )
    assert (first.state, first.text) == ("bad", "1 of 1 attack recovered the concept: seeds on 50 % of 2 prompts.")
    assert (second.state, second.text) == ("warn", "Only the text encoder was changed")
    assert banners(attacked(result("seeds", False)))[0].state == "good"


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
