"""Evaluation on a tiny model: what must hold whatever the model draws."""

from __future__ import annotations

import random

import numpy as np
import pytest
import worlds
from worlds import run

from excise import erase
from excise.errors import ConceptError, UnknownNameError, WrongBaseError
from excise.evaluation import controls
from excise.evaluation.catalog import gateable_keys
from excise.evaluation.evaluate import evaluate
from excise.evaluation.scoring import Shown, compared, score
from excise.families import family_of
from excise.judges import FEATURES
from excise.protocols import PROTOCOLS
from excise.protocols.base import Item, Protocol
from excise.registry import Record

pytestmark = pytest.mark.usefixtures("small_world")


@pytest.fixture
def family(pipe):
    return family_of(pipe)


@pytest.fixture
def edit(family):
    return erase(family, ["cat"], method="uce", preserve=["dog"], vocabulary=None)


def test_identity_changes_nothing(family):
    found = run(family, "cat", edits=[controls.identity(family, "tiny")], untouched=True).result
    assert found.untouched == {k: found.metrics[k] for k in found.untouched}
    assert found.metrics["drift"] == {"value": 0.0, "low": 0.0, "high": 0.0, "n": 8}
    assert (
        found.metrics["ua"]["value"]
        == 1
        - sum(s.saw["object"] == "cat" for s in found.shown[:14] if s.asked["object"] == "cat" and s.group == "grid")
        / 4
    )
    if "ua_relative" in found.metrics:
        assert found.metrics["ua_relative"]["value"] == 0.0
    assert '"n":8}' in found.model_dump_json()  # a count stays a whole number
    assert all(b["damage"]["value"] == 0 for bins in found.neighbours.values() for b in bins)


def test_every_stage_that_may_take_long_is_told_and_parts_change_nothing(family, edit, monkeypatch):
    told = []
    whole = run(family, "cat", edits=[edit], untouched=True, say=lambda *now: told.append(now)).result
    stages = list(dict.fromkeys(stage for stage, _, _ in told))
    assert stages[:3] == ["drawing the untouched model", "judging", "drawing"]
    monkeypatch.setattr("excise.evaluation.verdicts.CHUNK", 3)
    parts = run(family, "cat", edits=[edit], untouched=True).result
    assert parts.shown == whole.shown
    assert parts.metrics == whole.metrics


def test_an_edit_moves_the_pictures_of_others_measurably(family, edit):
    found = run(family, "cat", edits=[edit.scaled(50.0)], untouched=True)
    assert found.result.metrics["drift"]["value"] > 0
    assert found.before is not None
    assert len(found.before.images) == len(found.images) == 14
    assert found.result.edit_bytes > 0
    assert found.result.seconds["draw"] > 0


def test_batch_size_and_order_do_not_matter(family, monkeypatch):
    wanted = run(family, "cat").result
    by_image = {(s.prompt, s.seed): s.asked for s in wanted.shown}
    shuffled = worlds.small_world()
    items = list(shuffled.items)
    random.Random(0).shuffle(items)

    def other() -> Protocol:
        from dataclasses import replace

        return replace(shuffled, items=tuple(items))

    monkeypatch.setattr(worlds, "small_world", other)
    again = run(family, "cat", batch=3).result
    assert {(s.prompt, s.seed): s.asked for s in again.shown} == by_image
    assert again.hash != wanted.hash  # another order is another protocol, though its seeds are the same
    truth = worlds.Truthful(PROTOCOLS.load("small-world")().select([("object", "cat")]))
    assert run(family, "cat", judge=truth).result.metrics["ira"]["value"] == 1.0


def test_a_judge_that_always_lies_is_seen_through(family):
    items = PROTOCOLS.load("small-world")().select([("object", "cat")])
    honest = run(family, "cat", judge=worlds.Truthful(items)).result.metrics
    assert (honest["ua"]["value"], honest["ira"]["value"], honest["alias_rate"]["value"]) == (0.0, 1.0, 1.0)
    lying = run(family, "cat", judge=worlds.Truthful(items, lie="none")).result
    assert (lying.metrics["ua"]["value"], lying.metrics["ira"]["value"]) == (1.0, 0.0)
    assert lying.metrics["abstain"]["value"] == 1.0
    assert lying.became["cat"] == {"none": 4}
    assert run(family, "cat", judge=worlds.Truthful(items)).result.hash != run(family, "cat").result.hash


def test_corrected_for_the_judge(family, edit):
    found = run(family, "cat", edits=[edit], untouched=True).result.metrics
    assert set(found) <= set(gateable_keys("evaluate"))
    for name in ("ua", "ira", "cra", "h", "ira_worst", "cra_uc", "selective_alignment", "alias_rate"):
        assert 0 <= found[name]["low"] <= found[name]["value"] <= found[name]["high"] + 1e-12 <= 1 + 1e-9, name


def test_a_second_evaluation_is_served_from_the_cache(family, tmp_path, edit, monkeypatch):
    first = run(family, "cat", edits=[edit], untouched=True, cache=tmp_path)

    def never(*_, **__):
        raise AssertionError("nothing should be drawn")
        yield

    monkeypatch.setattr(type(family), "batches", lambda self, requests, **_: never() if requests else iter(()))
    second = run(family, "cat", edits=[edit], untouched=True, cache=tmp_path)
    assert second.result.metrics == first.result.metrics
    assert second.images.paths == first.images.paths


def test_a_sequence_tells_what_came_back(family):
    edits = [erase(family, [c], method="uce", vocabulary=None) for c in ("cat", "dog")]
    found = evaluate(family, ["cat", "dog"], edits=edits, protocol="small-sequence").result.sequence
    assert found is not None
    assert found["targets"] == ["cat", "dog"]
    assert found["matrix"][0][1] is None
    assert found["rebound"][1] == 0.0
    assert found["rebound"][0] == pytest.approx(found["matrix"][0][0] - found["matrix"][1][0])
    with pytest.raises(ConceptError, match="needs one edit for each concept.* got 1 edit and 2 concepts"):
        evaluate(family, ["cat", "dog"], edits=edits[:1], protocol="small-sequence")


def test_refusals(family):
    with pytest.raises(UnknownNameError, match="no protocol 'small-word'. Did you mean 'small-world'"):
        evaluate(family, ["cat"], protocol="small-word")
    with pytest.raises(ConceptError, match="small-world cannot judge 'Monet'; it knows object: cat, dog, car"):
        run(family, "Monet")
    with pytest.raises(ConceptError, match="has no group 'gird'"):
        run(family, "cat", groups=["gird"])


class Scores:
    """Gives each image a CLIP score, and no labels."""

    name = "scores"

    def verdicts(self, images):
        return {}

    def values(self, images, prompts):
        return {"clip_score": [30.0] * len(images)}


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_a_file_of_few_captions_is_measured_as_far_as_it_goes(family, edit, monkeypatch, count):
    """Two captions ended in a traceback: a distance between sets needs four images of each."""
    items = tuple(Item("captions", f"a caption, {i}", {}) for i in range(count))
    plan = Protocol(
        name="few",
        items=items,
        steps=2,
        guidance=2.0,
        judge="scores",
        score="captions",
        labels={},
        groups=("captions",),
        target_groups=("captions",),
        features="pixels",
    )
    monkeypatch.setattr(worlds, "small_world", lambda: plan)
    monkeypatch.setitem(FEATURES._entries, "pixels", Record(f"{__name__}:pixel_features", "pixels"))
    options = {"edits": [edit], "untouched": True, "judge": Scores()}
    told = []
    result = evaluate(family, protocol="small-world", **options, say=lambda *now: told.append(now)).result
    assert (("comparing images", 2, 2) in told) == (count > 3)
    assert result.metrics["clip_score"]["n"] == count
    assert ("drift" in result.metrics, "kid" in result.metrics) == (count > 1, count > 3)


def pixel_features(weights):
    return lambda images: np.stack([np.asarray(i, dtype=float).reshape(-1) / 255 for i in images])


@pytest.mark.parametrize("protocol", [name for name in PROTOCOLS if name.startswith("canvas-")])
def test_every_part_of_a_protocol_can_be_measured_by_itself(protocol):
    """Whatever the judge says of it; no part is too small for a metric of its own."""
    plan = PROTOCOLS.load(protocol)()
    groups = sorted({item.group for item in plan.items})
    names = list(plan.fixed_targets) or [next(iter(labels)) for labels in plan.labels.values()][:1]
    for chosen in [[group] for group in groups]:
        for targets in ((), tuple(plan.target_of(name) for name in names[:1])):
            items = plan.select(targets, chosen)
            for lie in (None, "none"):
                shown = [as_shown(item, lie) for item in items]
                before = [as_shown(item, None) for item in items]
                kind = "grid" if plan.score == "sequence" else plan.score
                score(kind, shown, targets)
                compared(before, shown, targets)
                compared(shown, shown, targets)


def as_shown(item: Item, lie: str | None) -> Shown:
    """An image in which the judge sees what was asked for, or always the same."""
    saw = {attribute: lie or label for attribute, label in item.asked.items()}
    saw = {"object": "none", "style": "none", **saw}
    return Shown(group=item.group, prompt=item.prompt, seed=0, asked=dict(item.asked), saw=saw, target=item.target)


def test_an_edit_of_another_model_is_refused_before_anything_is_drawn(make, edit, monkeypatch):
    def draw(*_, **__):
        raise AssertionError("a picture was drawn")

    monkeypatch.setattr("excise.evaluation.evaluate.draw", draw)
    with pytest.raises(WrongBaseError, match="of the family 'sd'"):
        run(family_of(make("sdxl")), "cat", edits=[edit], untouched=True)
