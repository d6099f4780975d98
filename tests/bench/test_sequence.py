"""Deletions one after another: what is asked at each step, what came back, when the rest collapsed, and going on."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import tiny_pipe

from excise import Concept
from excise.bench import sequence_result as results
from excise.bench.sequence import Deletions, delete_in_sequence, pictures_of, plan_of
from excise.edits.edit import Edit
from excise.erasing.erase import Naming, Origin
from excise.errors import ConceptError, JudgeError
from excise.families import family_of
from excise.metrics.rates import rate
from excise.protocols.concept import ATTRIBUTE, RETAINED
from excise.support.digests import file_digest

NAMES = ("fox", "wolf", "bear")
REQUEST = Deletions(
    [Concept(n) for n in NAMES], "uce", naming=Naming(["dog", "car"], None), origin=Origin("tiny"), pictures=2, others=4
)


def by_bytes(images, names):
    """An arbitrary judge that says the same of the same picture."""
    return [hashlib.sha256(np.asarray(i).tobytes()).digest()[0] % 2 == 0 for i in images]


@pytest.fixture
def family(tokenizer, few_steps):
    return family_of(tiny_pipe(tokenizer))


@pytest.fixture
def request_(family):
    return replace(REQUEST, judge=by_bytes)


def without_seconds(result):
    document = result.model_dump(mode="json")
    for step in document["steps"]:
        step.pop("seconds")
    return document


def test_every_step_asks_for_all_concepts_so_far_and_nothing_of_later_ones(family, request_, tmp_path):
    before = {k: v.clone() for k, v in family.denoiser.state_dict().items()}
    plan = plan_of(family, request_)
    result = delete_in_sequence(family, request_, tmp_path, plan=plan)
    assert [list(s.shows) for s in result.steps] == [["fox"], ["fox", "wolf"], ["fox", "wolf", "bear"]]
    assert all(f["n"] == 2 for s in result.steps for f in s.shows.values())
    assert all(torch.equal(v, before[k]) for k, v in family.denoiser.state_dict().items())
    others = sum(i.group != "target" for i in plan.items)
    assert pictures_of(plan) == (6 + others) + (2 + others) + (4 + others) + (6 + others)
    for name, step in zip(NAMES, result.steps, strict=True):
        change = result.steps[-1].shows[name]["value"] - step.shows[name]["value"]
        assert result.rebound[name]["value"] == change
    assert result.rebound["bear"]["value"] == 0


def test_only_groups_that_the_plan_has_are_drawn(family, request_):
    plan = plan_of(family, request_)
    drawn = {i.group for i in plan.items}
    assert {*plan.groups} == {*plan.target_groups} == drawn
    assert drawn <= {"target", *RETAINED}
    assert {i.group for i in plan.select([(ATTRIBUTE, "fox")])} == drawn


def test_edits_lie_on_top_of_each_other_or_each_erases_all_so_far(family, request_, tmp_path):
    def erased(stacked):
        folder = tmp_path / str(stacked)
        result = delete_in_sequence(family, replace(request_, stacked=stacked), folder)
        return [[c.name for c in Edit.load(folder / s.edit).record.concepts] for s in result.steps]

    assert erased(True) == [["fox"], ["wolf"], ["bear"]]
    assert erased(False) == [["fox"], ["fox", "wolf"], ["fox", "wolf", "bear"]]


def test_an_interrupted_run_goes_on_where_it_stopped_and_ends_alike(family, request_, tmp_path):
    whole = delete_in_sequence(family, request_, tmp_path / "whole")

    def stop(what, done, total):
        if what == "deletions" and done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        delete_in_sequence(family, request_, tmp_path / "cut", say=stop)
    files = {p: p.stat().st_mtime_ns for p in (tmp_path / "cut").rglob("*.*")}
    assert len([p for p in files if p.suffix == ".safetensors"]) == 2
    resumed = delete_in_sequence(family, request_, tmp_path / "cut")
    assert without_seconds(resumed) == without_seconds(whole)
    assert {p: p.stat().st_mtime_ns for p in files} == files
    for step in whole.steps:
        assert (tmp_path / "cut" / step.edit).read_bytes() == (tmp_path / "whole" / step.edit).read_bytes()


def test_steps_of_another_request_or_a_damaged_file_are_made_again(family, request_, tmp_path, caplog):
    first = delete_in_sequence(family, request_, tmp_path)
    (tmp_path / "steps" / "02.json").write_text("{")
    assert without_seconds(delete_in_sequence(family, request_, tmp_path)) == without_seconds(first)
    assert "02.json is damaged" in caplog.text
    other = delete_in_sequence(family, replace(request_, settings={"ridge": 5.0}), tmp_path)
    assert Edit.load(tmp_path / other.steps[0].edit).record.settings["ridge"] == 5.0


class Keyed:
    """A judge with a digest of its weights."""

    name = "mine"

    def __init__(self, key, answer):
        self.key, self.answer = key, answer

    def sees(self, images, names):
        return [self.answer] * len(images)


def last_shows(result):
    return [figure["value"] for figure in result.steps[-1].shows.values()]


def test_a_judge_of_the_same_name_with_other_weights_looks_anew(family, request_, tmp_path):
    for key, answer in (("a", True), ("b", False)):
        result = delete_in_sequence(family, replace(request_, judge=Keyed(key, answer)), tmp_path)
        assert last_shows(result) == [float(answer)] * 3
    kept = delete_in_sequence(family, replace(request_, judge=Keyed("b", True)), tmp_path)
    assert last_shows(kept) == [0.0] * 3


def test_another_model_with_the_same_cross_attention_is_drawn_anew(family, request_, tmp_path):
    files = {}

    def run():
        delete_in_sequence(family, request_, tmp_path)
        now = {p: p.stat().st_mtime_ns for p in (tmp_path / "steps").iterdir()}
        unchanged = [p for p, time in now.items() if files.get(p) == time]
        files.update(now)
        return unchanged

    assert run() == []
    assert len(run()) == 3
    with torch.no_grad():
        family.denoiser.conv_in.weight.mul_(1.5)
    assert run() == []


def test_steps_of_another_version_are_made_again(family, request_, tmp_path, monkeypatch):
    first = delete_in_sequence(family, request_, tmp_path)
    kept = (tmp_path / "steps" / "01.json").read_bytes()
    monkeypatch.setattr("excise.bench.sequence.version", lambda name: "99")
    assert without_seconds(delete_in_sequence(family, request_, tmp_path)) == without_seconds(first)
    assert (tmp_path / "steps" / "01.json").read_bytes() != kept


@pytest.mark.parametrize("stacked", [True, False])
def test_a_damaged_edit_takes_the_steps_on_top_of_it_along(family, request_, tmp_path, stacked):
    asked = replace(request_, stacked=stacked)
    first = delete_in_sequence(family, asked, tmp_path)
    other = delete_in_sequence(family, replace(asked, settings={"ridge": 5.0}), tmp_path / "other")
    below, above = (tmp_path / "steps" / f"0{k}.json" for k in (1, 3))
    kept = above.read_bytes()
    (tmp_path / first.steps[0].edit).write_bytes((tmp_path / "other" / other.steps[0].edit).read_bytes())
    old = below.stat().st_mtime_ns
    assert without_seconds(delete_in_sequence(family, asked, tmp_path)) == without_seconds(first)
    assert below.stat().st_mtime_ns > old
    assert Edit.load(tmp_path / first.steps[0].edit).record.settings["ridge"] != 5.0
    if not stacked:
        assert above.read_bytes() == kept  # made from the untouched model, it does not depend on them


def test_a_step_above_an_edit_that_came_out_otherwise_is_made_again(family, request_, tmp_path):
    first = delete_in_sequence(family, request_, tmp_path)
    other = delete_in_sequence(family, replace(request_, settings={"ridge": 5.0}), tmp_path / "other")
    (tmp_path / first.steps[0].edit).write_bytes((tmp_path / "other" / other.steps[0].edit).read_bytes())

    def change(number, **values):
        path = tmp_path / "steps" / f"{number}.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    change("01", digest=file_digest(tmp_path / first.steps[0].edit))
    for number, step in zip(("02", "03"), first.steps[1:], strict=True):
        change(number, result=step.model_copy(update={"seconds": {"stale": 1.0}}).model_dump(mode="json"))
    again = delete_in_sequence(family, request_, tmp_path)
    assert not any("stale" in step.seconds for step in again.steps)


def test_files_of_an_earlier_longer_request_do_not_stay(family, request_, tmp_path):
    delete_in_sequence(family, request_, tmp_path)
    fewer = delete_in_sequence(family, replace(request_, concepts=request_.concepts[1:]), tmp_path)
    assert {f"edits/{p.name}" for p in (tmp_path / "edits").iterdir()} == {s.edit for s in fewer.steps}
    assert sorted(p.name for p in (tmp_path / "steps").iterdir()) == ["01.json", "02.json"]


def test_an_interrupted_new_beginning_leaves_nothing_of_the_old_run(family, request_, tmp_path):
    delete_in_sequence(family, request_, tmp_path)
    for name in ("run.json", "report.html"):
        (tmp_path / name).write_text("old")
    (tmp_path / "states").mkdir()

    def stop(what, done, total):
        if what == "deletions":
            raise KeyboardInterrupt

    with pytest.raises(JudgeError):
        delete_in_sequence(family, replace(request_, judge=None), tmp_path, fresh=True)
    assert (tmp_path / "run.json").exists()  # what is refused before any work changes nothing
    with pytest.raises(KeyboardInterrupt):
        delete_in_sequence(family, request_, tmp_path, fresh=True, say=stop)
    left = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*"))
    assert left == ["edits", "edits/01-fox.safetensors", "steps", "steps/01.json"]


def test_refusals(family, tmp_path):
    with pytest.raises(JudgeError, match="without a judge nobody sees what is gone"):
        delete_in_sequence(family, REQUEST, tmp_path)
    with pytest.raises(ConceptError, match="name at least two concepts"):
        plan_of(family, Deletions([Concept("fox")], "uce"))
    assert list(tmp_path.iterdir()) == []


def kept(right, n=100):
    return rate([True] * right + [False] * (n - right))


def test_a_collapse_is_proven_by_the_whole_interval_and_possible_by_its_lower_end():
    retained = {1: kept(100), 2: kept(85), 3: kept(75), 4: kept(50), 5: kept(90)}
    assert results.collapse(retained, 0.8) == results.Collapse(share=0.8, proven=4, possible=2)
    assert results.collapse({1: kept(100)}, 0.8) == results.Collapse(share=0.8, proven=None, possible=None)


def of_steps(*steps, pictures=100, others=100):
    """A result: by step, for each concept so far in how many of its pictures it is shown; before, in all of them."""
    names = ["fox", "wolf", "bear"][: len(steps)]
    figure = kept(others, others).as_dict()
    made = []
    for k, counts in enumerate(steps, 1):
        shows = {n: kept(c, pictures).as_dict() for n, c in zip(names, counts, strict=False)}
        own = kept(pictures - counts[k - 1], pictures).as_dict()
        made.append(
            results.Step(step=k, concept=names[k - 1], edit="e", shows=shows, gone=own, own=own, retained=figure,
                         right=figure, drift=figure, seconds={})
        )  # fmt: skip
    return results.SequenceResult(
        model="tiny", method="uce", concepts=names, stacked=True, protocol="concept", hash="f" * 64,
        protocol_summary={}, untouched={n: kept(pictures, pictures).as_dict() for n in names}, right=figure,
        steps=made, rebound={n: e.as_dict() for n, e in results.rebound(made).items()},
        collapse=results.collapse({k: kept(others, others) for k in range(1, len(made) + 1)}, 0.8),
    )  # fmt: skip


def told(result):
    return [(text, good) for text, good in results.verdicts(result) if not text.startswith("No collapse")]


def test_where_nothing_was_erased_nothing_is_green_but_the_other_names():
    verdicts = told(of_steps([10], [10, 10], pictures=10))
    assert [good for _, good in verdicts] == [False, None]
    (gone, _), (back, _) = verdicts
    assert gone == (
        "Not gone, less than half of its pictures are clean after its own deletion: fox (0 % of 10 pictures, at most "
        "28 %), wolf (0 % of 10 pictures, at most 28 %)."
    )
    assert back == "Whether fox came back is open: it is not known to have been gone."
    assert all(good is not True for _, good in told(of_steps([5], [5, 5], pictures=10)))


def test_gone_and_not_come_back_are_green_by_their_intervals():
    (gone, proven), (back, stayed) = told(of_steps([0], [0, 0]))
    assert (proven, stayed) == (True, True)
    assert gone == (
        "Gone from at least half of its pictures after its own deletion: fox (100 % of 100 pictures, at least 96 %), "
        "wolf (100 % of 100 pictures, at least 96 %)."
    )
    assert back.startswith("Nothing came back: ")
    (_, proven), (back, stayed) = told(of_steps([0], [0, 0], pictures=10))
    assert (proven, stayed) == (True, None)  # ten pictures say that it is gone, not that it stayed so
    assert back == "Not seen to come back: fox (up to +28 points)."
    ((gone, proven), *_) = told(of_steps([5], [5, 5], pictures=10))
    assert proven is None
    assert gone.startswith(
        "Open whether at least half of its pictures are clean after its own deletion: fox (50 % of 10 "
    )


def test_what_came_back_is_said_and_the_last_deletion_had_no_time_to():
    verdicts = told(of_steps([0], [40, 0]))
    assert verdicts[1] == ("fox came back in part: +40 points since its own deletion (+30 to +50).", False)
    assert not any("wolf" in text for text, _ in verdicts[1:])
    (some,) = [v for v in told(of_steps([0], [1, 0])) if "came back" in v[0]]
    assert some[1] is None


def test_what_the_untouched_model_never_shows_is_neither_gone_nor_back():
    result = of_steps([0], [0, 0])
    never = {**result.untouched, "fox": kept(0).as_dict()}
    first = result.steps[0].model_copy(update={"own": None})
    verdicts = told(result.model_copy(update={"untouched": never, "steps": [first, result.steps[1]]}))
    assert [good for _, good in verdicts] == [True, None]
    assert "fox" not in verdicts[0][0]
    assert verdicts[-1][0].startswith("fox: not verifiable")


def shown(group, name, saw, prompt="p", seed=0):
    return results.Shown(group=group, prompt=prompt, seed=seed, asked={ATTRIBUTE: name}, saw={ATTRIBUTE: saw})


def test_gone_and_retained_count_what_the_untouched_model_drew_rightly():
    before = [shown("target", "fox", "fox"), shown("target", "fox", "none"), shown("near", "dog", "dog"),
              shown("retained", "car", "none")]  # fmt: skip
    after = [shown("target", "fox", "none"), shown("target", "fox", "fox"), shown("near", "dog", "dog"),
             shown("retained", "car", "car")]  # fmt: skip
    gone, retained = results.against(before, after)
    assert (gone.value, gone.n) == (1.0, 1)
    assert (retained.value, retained.n) == (1.0, 1)
    assert results.against(before[1:2], after[1:2]) == (None, None)


def test_the_command_prints_writes_and_answers_from_what_is_there(excise, few_steps, model, clip_folder, tmp_path):
    words = ("sequence", "--model", model, "-c", "fox", "-c", "wolf", "--method", "uce", "--vocabulary", "none",
             "--preserve", "dog", "--pictures", "2", "--judge", clip_folder)  # fmt: skip
    status, out, err = excise(*words, "--out", tmp_path / "run", "--json")
    assert status == 0, err
    document = json.loads(out)
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert {key: run[key] for key in document} == document
    status, listing, _ = excise("list", tmp_path, "--json")
    row = next(r for r in json.loads(listing) if r["path"] == "run")
    assert (row["run"], row["concepts"], row["method"]) == ("sequence", ["fox", "wolf"], "uce")
    assert document["concepts"] == ["fox", "wolf"]
    assert [s["edit"] for s in document["steps"]] == ["edits/01-fox.safetensors", "edits/02-wolf.safetensors"]
    page = (tmp_path / "run" / "report.html").read_text()
    assert page.count('class="empty"') == 1
    assert "2: wolf" in page
    again = excise(*words, "--out", tmp_path / "run", "--json")
    assert again[:2] == (0, out)
    old = {**run, "schema_version": 1, "steps": [{k: v for k, v in s.items() if k != "own"} for s in run["steps"]]}
    (tmp_path / "run" / "run.json").write_text(json.dumps(old))
    status, anew, _ = excise(*words, "--out", tmp_path / "run", "--json")
    assert (status, json.loads(anew)["schema_version"]) == (0, document["schema_version"])
    status, out, _ = excise(*words, "--out", tmp_path / "run")
    assert status == 0
    assert "wolf" in out
    status, _, err = excise(*words[:5], "--out", tmp_path / "one")
    assert status == 2
    assert "name at least two concepts" in err
    assert not (tmp_path / "one").exists()


def test_a_page_escapes_names_and_tells_a_collapse(tmp_path):
    from excise.report.sequence_page import write_sequence_page

    name = "<b>fox</b>"
    figure, low = kept(90).as_dict(), kept(10).as_dict()
    step = {"edit": "e", "gone": figure, "own": figure, "right": figure, "drift": figure, "seconds": {}}
    steps = [
        results.Step(step=1, concept=name, shows={name: low}, retained=figure, **step),
        results.Step(step=2, concept="wolf", shows={name: figure, "wolf": low}, retained=low, **step),
    ]
    result = results.SequenceResult(
        model="tiny", method="uce", concepts=[name, "wolf"], stacked=True, protocol="concept", hash="f" * 64,
        protocol_summary={"steps": 2, "sampler": "model", "guidance": 2.0, "judge": "mine"},
        untouched={name: figure, "wolf": kept(0).as_dict()}, right=figure, steps=steps,
        rebound={n: e.as_dict() for n, e in results.rebound(steps).items()},
        collapse=results.collapse({1: kept(90), 2: kept(10)}, 0.8),
    )  # fmt: skip
    text = write_sequence_page(result, tmp_path / "page.html").read_text()
    assert name not in text
    assert "Collapse at deletion 2 (wolf)" in text
    assert "came back in part: +80 points" in text
    assert "wolf: not verifiable" in text
    assert "dashed: the collapse" in text
