"""Protocol `concept`: its questions, its metrics, its verdicts, and what its images can prove."""

from __future__ import annotations

import pytest
from conftest import tiny_pipe

from excise import Concept, erase, evaluate
from excise.cli import gates
from excise.concepts.concept import CHECKS, TEMPLATES
from excise.errors import ConceptError, SettingError
from excise.evaluation.plan import concept_plan, default_protocol
from excise.evaluation.proof import best_metrics
from excise.families import family_of
from excise.protocols import PROTOCOLS
from excise.protocols.concept import MOST_EACH, NEAREST, NO_JUDGE

pytestmark = pytest.mark.usefixtures("few_steps")


@pytest.fixture(scope="module")
def pipe(tokenizer):
    return tiny_pipe(tokenizer)


@pytest.fixture(scope="module")
def edit(pipe):
    return erase(pipe, [Concept("cat", synonyms=("kitty",)), Concept("neon", "style")], "uce", preserve=["tree", "dog"])


class Half:
    """Sees names of even length; a concept in pictures of the untouched model alone, which come first."""

    name = "half"

    def __init__(self):
        self.rounds = 0

    def sees(self, images, names):
        self.rounds += 1
        return [(n == "cat" and self.rounds == 1) or len(n) % 2 == 0 for n in names]


def test_kinds_synonyms_and_names_to_retain_come_from_the_edit(pipe, edit):
    family = family_of(pipe)
    plan = concept_plan(family, [], [edit])
    by_group = {g: [i for i in plan.items if i.group == g] for g in plan.groups}
    assert list(plan.fixed_targets) == ["cat", "neon"]
    assert len(by_group["target"]) == 20
    assert {i.prompt for i in by_group["target"] if i.asked["concept"] == "neon"} == {
        c.format("neon") for c in CHECKS["style"]
    }
    assert [i.prompt for i in by_group["synonyms"]] == [CHECKS["object"][0].format("kitty")]
    assert {"tree", "dog"} <= {i.asked["concept"] for i in by_group["retained"]}
    assert len({i.asked["concept"] for i in by_group["near"]}) == NEAREST
    used = {t.format(n) for k in TEMPLATES for t in TEMPLATES[k] for n in plan.labels["concept"]}
    assert not used & {i.prompt for i in plan.items}  # no method saw them
    assert len({plan.seed(i) for i in plan.items}) == len({(i.prompt, i.index) for i in plan.items})
    assert plan.hash == concept_plan(family, ["cat", "neon"], [edit]).hash
    assert plan.hash != concept_plan(family, ["cat"], [edit]).hash


def test_metrics_and_verdicts_are_those_of_the_judge(pipe, edit):
    plan = concept_plan(family_of(pipe), ["cat"], [edit], pictures=4)
    done = evaluate(pipe, ["cat"], edits=[edit], protocol=plan, untouched=True, judge=Half())
    metrics = done.result.metrics
    assert metrics["ua"]["value"] == metrics["ua_relative"]["value"] == 1.0
    names = [i.asked["concept"] for i in plan.items if i.group in ("near", "retained")]
    assert metrics["ira"] == {
        **metrics["ira"],
        "value": sum(len(n) % 2 == 0 for n in names) / len(names),
        "n": len(names),
    }
    assert metrics["ira_relative"]["value"] == 1.0
    assert {"ira_near", "synonym_rate", "drift"} <= set(metrics)
    (verdict,) = done.result.verdicts
    assert (verdict.status, verdict.images) == ("verified", 4)
    assert verdict.sentence() == "verified: 4 of 4 clean (at least 51 %)"


def test_a_callable_judges_and_without_a_judge_nothing_is_said(pipe, edit):
    seen = evaluate(
        pipe,
        ["cat"],
        edits=[edit],
        protocol="concept",
        untouched=True,
        judge=lambda images, names: [False] * len(images),
    )
    assert seen.result.verdicts[0].sentence().startswith("not verifiable: the untouched model shows it in none of 10")
    assert "ua" not in seen.result.metrics  # nothing shows that what was never drawn has gone
    blind = evaluate(pipe, ["cat"], edits=[edit], untouched=True)
    assert blind.result.protocol_summary["judge"] == NO_JUDGE
    assert set(blind.result.metrics) == {"drift"}
    assert blind.result.verdicts == []


def test_prompts_of_ones_own_are_asked_about_the_concept_that_they_name(pipe):
    family = family_of(pipe)
    plan = concept_plan(family, ["cat", "dog"], own=["my cat at home"])
    assert [i.target for i in plan.items if i.group == "own"] == ["cat"]
    alone = concept_plan(family, ["cat"], own=["the furry one"])
    assert [i.target for i in alone.items if i.group == "own"] == ["cat"]
    with pytest.raises(ConceptError, match="'the furry one' names none of the concepts"):
        concept_plan(family, ["cat", "dog"], own=["the furry one"])
    with pytest.raises(ConceptError, match="asks for concepts; name one"):
        concept_plan(family, [])


def test_it_is_the_default_off_canvas():
    assert default_protocol(True, ["cat"], []) == "canvas-mini"
    assert default_protocol(True, ["Pikachu"], []) == "concept"
    assert default_protocol(False, ["cat"], []) == "concept"


def test_the_best_case_is_what_counts_can_prove(pipe):
    family = family_of(pipe)
    plan = concept_plan(family, ["cat"], pictures=10)
    best = best_metrics(plan, [("concept", "cat")])
    assert (best["ua"].value, best["ua"].n, best["ira"].value) == (1.0, 10, 1.0)
    gates.check_possible(gates.parse_all(["ua>=0.7,ira>=0.8,drift<=0.1"]), plan, [("concept", "cat")])
    with pytest.raises(SettingError, match=r"ua>=0.9 cannot pass: with 10 images.*begins at 0.722. It takes 35"):
        gates.check_possible(gates.parse_all(["ua>=0.9"]), plan, [("concept", "cat")])
    canvas = PROTOCOLS.load("canvas-mini")()
    with pytest.raises(SettingError, match=r"alias_rate<=0.01 cannot pass: with 20 images.*ends at 0.161"):
        gates.check_possible(gates.parse_all(["alias_rate<=0.01"]), canvas, [("object", "cat")])
    gates.check_possible(gates.parse_all(["ua>=0.7,alias_rate<=0.2,h>=0.5"]), canvas, [("object", "cat")])
    quiet = concept_plan(family, ["cat"], judged=False)
    with pytest.raises(SettingError, match="nothing measures ua: this model has no judge"):
        gates.check_possible(gates.parse_all(["ua>=0.1"]), quiet, [("concept", "cat")])


def test_enough_is_drawn_for_a_gate(pipe):
    required = gates.parse_all(["ua>=0.9,ira>=0.95"])
    assert gates.pictures_for(required, ("ua",), 10) == 70
    assert gates.pictures_for(required, ("ua",), 10, shared_by=2) == 35
    plan = concept_plan(family_of(pipe), ["cat"], others=gates.pictures_for(required, ("ira",), 36))
    gates.check_possible(gates.parse_all(["ira>=0.95"]), plan, [("concept", "cat")])
    names = [i.asked["concept"] for i in plan.items if i.group in ("near", "retained")]
    assert max(names.count(n) for n in names) <= MOST_EACH
