"""Several targets of methods that are defined for one: trained one after another, and joined beside a naive fusion."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from situations import every_second
from torch.testing import assert_close

from excise import Concept, Edit, erase
from excise.concepts.concept import TEMPLATES, fill
from excise.edits.difference import compared
from excise.edits.originals import original_weights
from excise.errors import ConceptError, ExciseWarning
from excise.families import family_of
from excise.methods import METHODS, load_method
from excise.methods.base import Context
from excise.methods.trained import several
from excise.methods.trained.base import Trained
from excise.methods.trained.several import alone
from excise.report.training_charts import training_charts
from excise.training.probes import Probe
from excise.training.problem import TrainingProblem

SMALL = {"lr": 1e-2, "batch": 2, "vocabulary": None, "preserve": ["dog", "tree"]}
SETTINGS = {
    "ace": {"steps": 3, "sampler_steps": 3},
    "ant": {"steps": 3, "sampler_steps": 3, "weights": "lora", "mask": "none"},
    "mace-full": {"steps": 3, "pictures": 2},
    "slug": {"steps": 1, "pictures": 2, "candidates": 1, "bisections": 1},
    "spm": {"steps": 3, "sampler_steps": 3},
}
FOR_ONE = sorted(name for name in METHODS.records() if isinstance(m := load_method(name), Trained) and m.for_one)


def made(pipe, method: str, concepts: list[str], **more) -> Edit:
    small = {k: v for k, v in SMALL.items() if method != "slug" or k != "lr"}
    return erase(pipe, concepts, method, **small, **SETTINGS[method], **more)


def test_these_are_the_methods_of_one_target():
    assert sorted(SETTINGS) == FOR_ONE


@pytest.mark.parametrize("method", FOR_ONE)
def test_each_is_trained_alone_and_the_record_and_the_progress_say_so(make, method):
    told = []
    looks = every_second if method == "slug" else None  # which takes its time
    context = Context(judge=looks, say=lambda what, done, total: told.append(what))
    edit = made(make("sd"), method, ["cat", "car"], context=context)
    assert list(edit.record.measured["targets"]) == ["cat", "car"]
    for number in (1, 2):
        assert any(what.startswith(f"target {number} of 2 alone: ") for what in told)
    titles = [chart.title for chart in training_charts(edit.record.measured)]
    assert method == "slug" or {t.split(",")[0] for t in titles} == {"cat", "car"}  # which has no losses of steps


def test_a_target_that_the_judge_never_sees_is_refused_before_any_training(make):
    told = []
    context = Context(
        judge=lambda images, names: [name != "car" for name in names], say=lambda what, done, total: told.append(what)
    )
    with pytest.raises(ConceptError, match="never sees 'car'"):
        made(make("sd"), "ace", ["cat", "car"], context=context)
    assert not any("training" in what for what in told)


def test_targets_that_come_back_when_joined_are_told(make, monkeypatch):
    monkeypatch.setattr(several, "ENOUGH", 2.0)  # nothing is gone enough
    with pytest.warns(ExciseWarning, match="once the targets' changes are joined; erase them one after another"):
        edit = made(make("sd"), "mace-full", ["cat", "car"], context=Context(judge=every_second))
    assert set(edit.record.measured["joined"]) == {"erase", "related", "unrelated", "instead"}


def test_what_earlier_edits_erased_is_looked_at_for_every_target():
    probes = {
        "cat": [Probe("a cat", "cat", "target"), Probe("a bird", "bird", "gone")],
        "car": [Probe("a car", "car", "target")],
    }
    problem = TrainingProblem(None, [Concept("cat"), Concept("car")], {}, probes=probes)  # type: ignore[arg-type]
    for number, name in enumerate(probes):
        own = alone(problem, number).probes[name]
        assert [p.role for p in own] == ["target", "gone"]


@pytest.mark.parametrize("method", ["ace", "mace-full"])
def test_keys_and_values_are_fused_as_the_formula_says(make, method):
    """W' - W = sum_i D_i S_i (sum_i S_i + p R^T R + lambda I)^-1, with loops over prompts and tokens."""
    settings = {"fusion_retain_scale": 0.5, "fusion_ridge": 2.0}
    if method == "mace-full":  # the refinement is a change of its own, the same for both and alone
        settings |= {"ridge": 1e9}
    pipe = make("sd")
    family = family_of(pipe)
    path = family.projections("kv")[0].path
    weight = original_weights(family, [path])[path]
    both = made(pipe, method, ["cat", "car"], **settings)
    alone = [made(pipe, method, [name], **settings) for name in ("cat", "car")]

    def moment(prompts) -> torch.Tensor:
        total = torch.zeros(weight.shape[1], weight.shape[1], dtype=torch.float64)
        for prompt in dict.fromkeys(prompts):
            states = family.encode([prompt])
            for row in states.gather([0], states.chosen([0], "all")).double():
                total += torch.outer(row, row)
        return total

    templates = TEMPLATES["object"]
    nothing = [""]  # that ACE's change is about
    kept = moment([p for name in ("dog", "tree") for p in fill(templates, name)] + (nothing if method != "ace" else []))
    S = [moment(fill(templates, name) + (nothing if method == "ace" else [])) for name in ("cat", "car")]
    A = S[0] + S[1] + 0.5 * kept + 2.0 * torch.eye(len(kept), dtype=torch.float64)
    expected = sum(e.delta(path, weight).double() @ s @ torch.linalg.inv(A) for e, s in zip(alone, S, strict=True))
    assert_close(both.delta(path, weight).double(), expected, rtol=1e-3, atol=1e-5)


def test_ace_of_several_targets_keeps_its_say_on_what_no_prompt_gives(make):
    """What its loss is most about: of the changes made alone most is left there, keys and values included."""
    pipe = make("sd")
    family = family_of(pipe)
    states = family.encode([""])
    rows = states.gather([0], states.chosen([0], "all"))
    both, *alone_ = (made(pipe, "ace", names) for names in (["cat", "car"], ["cat"], ["car"]))
    left = []
    for p in family.projections("kv"):
        weight = original_weights(family, [p.path])[p.path]
        mean = sum(e.delta(p.path, weight) for e in alone_) / 2
        left.append(float((rows @ both.delta(p.path, weight).mT).norm() / (rows @ mean.mT).norm()))
    assert min(left) > 0.6


def test_ant_trains_weights_under_a_mask_of_each_target(make):
    pipe = make("sd")
    settings = {**SETTINGS["ant"], **SMALL, "weights": "full", "mask": "saliency", "mask_passes": 2}
    edit = erase(pipe, ["cat", "car"], "ant", **settings)
    family = family_of(pipe)
    before = {path: family.parameter(path).detach().clone() for path in edit.paths}
    with edit.apply(pipe):
        assert all(not torch.equal(family.parameter(path), w) for path, w in before.items())
    assert all(torch.equal(family.parameter(path), w) for path, w in before.items())


def test_what_reads_no_text_is_added_up(make):
    pipe = make("sd")
    family = family_of(pipe)
    path = next(m.path for m in family.maps("cross") if m.part == "q")
    weight = original_weights(family, [path])[path]
    both, *alone = (made(pipe, "ace", names) for names in (["cat", "car"], ["cat"], ["car"]))
    assert_close(both.delta(path, weight), sum(e.delta(path, weight) for e in alone), rtol=1e-4, atol=1e-6)


def test_adapters_with_gates_stand_side_by_side(make, tmp_path):
    pipe = make("sd")
    edit = made(pipe, "spm", ["cat", "car"])
    assert len(edit.hooks) == 2
    loaded = Edit.load(edit.save(tmp_path / "e.safetensors"))
    family = family_of(pipe)

    def drawn() -> np.ndarray:
        prompts = ["a photo of a cat", "a photo of a car", "a photo of a dog"]
        return np.stack([np.asarray(i) for i in family.sample(prompts, [0, 1, 2], steps=2, guidance=2.0, batch=3)])

    before = drawn()
    with loaded.apply(pipe):
        after = drawn()
    assert [bool((a != b).any()) for a, b in zip(before, after, strict=True)] == [True, True, False]
    assert np.array_equal(drawn(), before)
    weaker = replace(edit, hooks=(edit.hooks[0].scaled(0.5), edit.hooks[1]))
    assert compared(edit, weaker).hooks == {"spm": False}
    assert compared(edit, loaded).hooks == {"spm": True}
