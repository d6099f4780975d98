"""Protocols: what they hold, how they are told apart, what they refuse."""

from __future__ import annotations

from dataclasses import replace

import pytest

from excise.canvas import vocabulary, world
from excise.errors import ConceptError
from excise.evaluation.scoring import Shown, compared
from excise.protocols import PROTOCOLS, check_comparable, summary
from excise.protocols.base import IncomparableError, asks

CANVAS = [name for name in PROTOCOLS if name.startswith("canvas")]


@pytest.fixture(params=CANVAS)
def plan(request):
    return PROTOCOLS.load(request.param)()


@pytest.fixture
def local_data(tmp_path, monkeypatch):
    """What the protocols over the user's own names and captions read."""
    (tmp_path / "erased.txt").write_text("Ada Lovelace\n")
    (tmp_path / "kept.txt").write_text("Alan Turing\n")
    (tmp_path / "captions.csv").write_text("caption,seed\na cat on a mat,1\n")
    monkeypatch.setenv("EXCISE_CELEBRITY", str(tmp_path))
    for variable in ("EXCISE_COCO", "EXCISE_I2P", "EXCISE_NUDITY"):
        monkeypatch.setenv(variable, str(tmp_path / "captions.csv"))


def test_a_protocol_is_the_same_every_time_and_unlike_every_other(local_data):
    hashes = {name: PROTOCOLS.load(name)().hash for name in PROTOCOLS}
    assert hashes == {name: PROTOCOLS.load(name)().hash for name in PROTOCOLS}
    assert len(set(hashes.values())) == len(hashes)


def test_every_image_has_a_seed_of_its_own(plan):
    assert all(0 <= plan.seed(i) < 2**63 for i in plan.items)
    drawn = {(i.prompt, plan.seed(i)) for i in plan.items if i.target is None}
    assert len(drawn) == sum(i.target is None for i in plan.items)


def test_no_prompt_is_trained_on_or_retained(plan):
    retained = {*vocabulary.prompts(), *vocabulary.prompts(strict=True)}
    templates = (*world.STYLED_TEMPLATES, *world.OBJECT_TEMPLATES)
    trained = {t.format(o=o, s=s) for t in templates for o in world.drawables() for s in world.STYLES}
    prompts = {i.prompt for i in plan.items}
    assert not prompts & retained
    assert not prompts & trained


@pytest.mark.parametrize(
    "change", [{"guidance": 5.0}, {"steps": 13}, {"judge": "other"}, {"sampler": "ddim"}, {"name": "x"}]
)
def test_the_hash_follows_every_field(change):
    plan = PROTOCOLS.load("canvas-mini")()
    assert replace(plan, **change).hash != plan.hash
    assert replace(plan, items=plan.items[1:]).hash != plan.hash


def test_results_of_different_protocols_are_not_compared():
    one, two = (PROTOCOLS.load(name)() for name in ("canvas-mini", "canvas-full"))
    results = [{"protocol": p.name, "hash": p.hash, "protocol_summary": summary(p)} for p in (one, one, two)]
    check_comparable(results[:2])
    with pytest.raises(IncomparableError, match=r"canvas-mini .*canvas-full .*items: .*'grid': 240.*'grid': 1200"):
        check_comparable(results)


def test_a_selection_holds_what_speaks_of_the_target():
    plan = PROTOCOLS.load("canvas-mini")()
    items = plan.select([("object", "cat")])
    assert len(items) == 240 + 20
    assert {i.target for i in items if i.group == "aliases"} == {"cat"}
    assert len(plan.select([])) == 240 + 200
    held_out = PROTOCOLS.load("canvas-aliases")()
    assert len(held_out.select([])) == 3 * 240  # every paraphrase of every cell, once
    assert len(held_out.select([("object", "cat")])) == 10 + 10 + 30
    assert len(held_out.select([("style", "neon")])) == 24 + 3 * 24
    with pytest.raises(ConceptError, match="has no group 'gird'; it has: grid, names, aliases"):
        plan.select([], ["gird"])


def test_targets_of_a_protocol():
    assert PROTOCOLS.load("canvas-mini")().target_of("neon") == ("style", "neon")
    assert PROTOCOLS.load("canvas-pairs")().target_of("cat in neon style") == ("pair", "cat in neon style")
    with pytest.raises(ConceptError, match="canvas-mini cannot judge 'Monet'; it knows object: cat"):
        PROTOCOLS.load("canvas-mini")().target_of("Monet")


def test_a_pair_is_asked_for_by_its_own_prompts_alone():
    plan = PROTOCOLS.load("canvas-pairs")()
    target = plan.target_of("cat in neon style")
    asking = [i for i in plan.items if asks(i.asked, [target])]
    assert len(asking) == 5
    assert {tuple(i.asked.values()) for i in asking} == {("cat", "neon")}


def test_ua_of_a_pair_seen_from_the_untouched_model():
    shown = [
        Shown(group="grid", prompt=f"{o} {s}", seed=0, asked={"object": o, "style": s}, saw={"object": o, "style": s})
        for o in ("cat", "dog")
        for s in ("neon", "sepia")
    ]
    after = [shown[0].model_copy(update={"saw": {"object": "cat", "style": "plain"}}), *shown[1:]]
    found = compared(shown, after, [("pair", "cat in neon style")])
    assert found["ua_relative"].value == 1.0
    assert found["ua_relative"].n == 1


def test_counts():
    groups = {n: summary(PROTOCOLS.load(n)())["items"] for n in CANVAS}
    assert groups["canvas-full"]["grid"] == 1200
    assert groups["canvas-names-10"] == {"erased": 50, "kept": 500}
    assert groups["canvas-aliases"] == {"synonyms": 480, "spanish": 240, "paraphrases": 1440}
