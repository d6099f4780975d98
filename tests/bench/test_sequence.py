"""Deletions one after another: what is asked at each step, what came back, when the rest collapsed, and going on."""

from __future__ import annotations

import hashlib
import json

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
from excise.protocols.concept import ATTRIBUTE

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
    from dataclasses import replace

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


def test_edits_lie_on_top_of_each_other_or_each_erases_all_so_far(family, request_, tmp_path):
    from dataclasses import replace

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
    from dataclasses import replace

    first = delete_in_sequence(family, request_, tmp_path)
    (tmp_path / "steps" / "02.json").write_text("{")
    assert without_seconds(delete_in_sequence(family, request_, tmp_path)) == without_seconds(first)
    assert "02.json is damaged" in caplog.text
    other = delete_in_sequence(family, replace(request_, settings={"ridge": 5.0}), tmp_path)
    assert Edit.load(tmp_path / other.steps[0].edit).record.settings["ridge"] == 5.0


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
    step = {"edit": "e", "gone": figure, "right": figure, "drift": figure, "seconds": {}}
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
