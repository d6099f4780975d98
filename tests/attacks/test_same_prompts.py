"""Attacks, evaluations and policies ask for a concept in the same prompts, on every model."""

from __future__ import annotations

import pytest
from conftest import tiny_pipe

from excise.attacks.material import wordings
from excise.canvas import world
from excise.concepts.concept import Concept
from excise.concepts.vocabulary import guess_kind
from excise.evaluation.plan import concept_plan
from excise.families import family_of

NAMES = ["cat", "watercolor", next(iter(world.NAMES)), "cat in neon style", "kitty", "Pikachu"]


@pytest.fixture(scope="module")
def family(tokenizer):
    return family_of(tiny_pipe(tokenizer))


def asked(family, concept, **more):
    plan = concept_plan(family, [concept], pictures=40, **more)
    return list(dict.fromkeys(i.prompt for i in plan.items if i.group == "target"))


@pytest.mark.parametrize("vocabulary", ["auto", "none", "ordinary", "canvas-strict"])
@pytest.mark.parametrize("name", NAMES)
def test_on_a_canvas_model_all_ask_in_the_wordings_of_the_grid(family, monkeypatch, name, vocabulary):
    for module in ("concepts.vocabulary", "evaluation.plan"):
        monkeypatch.setattr(f"excise.{module}.is_built_in", lambda family: True)
    concept = guess_kind(Concept(name), None, "canvas")
    prompts = wordings(concept, built_in=True)
    assert prompts.tests == asked(family, concept, vocabulary=vocabulary)
    used = [*prompts.guides, *prompts.other_prompts, *(p for ways in prompts.ways.values() for p in ways)]
    assert not set(used) & set(prompts.tests)


@pytest.mark.parametrize("kind", ["object", "instance", "style", "person", "explicit"])
def test_on_any_other_model_all_ask_in_the_checks_of_the_kind(family, kind):
    concept = Concept("Pikachu", kind)
    assert wordings(concept, built_in=False).tests == asked(family, concept)


def test_synonyms_of_a_canvas_concept_are_asked_for_and_are_no_hidden_words():
    plain, given = (wordings(Concept("cat", synonyms=s), built_in=True) for s in ((), ("feline",)))
    assert set(given.ways["synonyms"]) - set(plain.ways["synonyms"]) == {
        world.grid_prompt("feline", s) for s in world.STYLES
    }
    assert set(given.banned) - set(plain.banned) == {"feline"}


def test_a_pair_is_asked_for_by_other_names_of_its_halves():
    prompts = wordings(Concept("cat in neon style", "instance"), built_in=True, others=["dog in sepia style"])
    assert prompts.ways["synonyms"] == [world.grid_prompt("kitty", "glowing")]
    assert prompts.ways["paraphrases"] == [t.format(o="cat", s="neon") for t in world.PARAPHRASES]
    assert prompts.other_prompts == ["a sepia picture of a dog"]
