"""What every registered method promises, on a tiny model of every family."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from conftest import WAYS
from dits import FIRST
from entry_points import Entry
from plugins import NUDGE, nudge_record
from situations import every_second, image
from torch.testing import assert_close

from excise import Concept, Edit, erase
from excise.edits.originals import original_weights
from excise.errors import ConceptError, ModelError, SettingError
from excise.families import family_of
from excise.families.attached import attached
from excise.families.capabilities import STATIC_TEXT, TEXT_KV
from excise.families.drawing import model_key
from excise.families.networks import hooked
from excise.methods import METHODS, load_method
from excise.methods.base import Context
from excise.methods.fitting import families_for

# What a tiny random model needs to be erased from in a moment, by shape and for single methods.
SHORT: dict[str, dict[str, object]] = {"trained": {"steps": 2, "lr": 1e-2, "batch": 2}}
SETTINGS: dict[str, dict[str, object]] = {
    "speed": {"threshold": 5.0},  # a random text encoder has no near-empty directions
    "rece": {"regularisation": 1e-3, "fixed": "start"},  # the states of the empty prompt fill a narrow space
    "surgun": {"confine": False, "blocks": "all", "pictures": 4, "count": 2},
    "esd": {"sampler_steps": 4},
    "ace": {"sampler_steps": 2},
    "advunlearn": {"sampler_steps": 2, "attack_steps": 1, "warmup_steps": 1},
    "mace-full": {"pictures": 2},
    "realera": {"sampler_steps": 2},
    "trce": {"sampler_steps": 2},
    "ant": {"sampler_steps": 2, "mask_passes": 2},
    "spm": {"sampler_steps": 2},
    "receler": {"sampler_steps": 2, "adversary_steps": 1},
    "concept-ablation": {"pictures": 2},
    "doco": {"pictures": 2, "warmup": 1},
    "few-shot": {"pictures": 2, "bound": 0.0},
    "forget-me-not": {"pictures": 2},
    "rgd": {"pictures": 2, "bound": 100.0},
    "slug": {"pictures": 2, "steps": 1, "candidates": 1, "bisections": 1},
    "salun": {"pictures": 2, "mask_passes": 2},
    "sculpting-memory": {"pictures": 2, "mask_passes": 2},
    "selective-amnesia": {"pictures": 2, "fisher_passes": 2},
    "eraseanything": {"sampler_steps": 2, "pictures": 2, "unrelated": 1},
    "zerase": {"sampler_steps": 2},
}


SEED = 7
JUDGED = {"slug"}  # cannot do without a judge
WITHOUT_LOOP = {"slug"}  # of training
# The methods of excise, and one of another package.
RECORDS = {**METHODS.records(), "nudge": nudge_record()}
every_method = pytest.mark.parametrize("method", sorted(RECORDS))
every_method_that_changes_weights = pytest.mark.parametrize(
    "method", sorted(name for name, record in RECORDS.items() if record.shape != "inference-time")
)
every_method_that_acts_while_drawing = pytest.mark.parametrize(
    "method", sorted(name for name, record in RECORDS.items() if record.shape == "inference-time")
)
CLOSED = sorted(name for name, r in RECORDS.items() if r.shape == "closed-form" and STATIC_TEXT in r.needs)
FAMILIES = [*("sd", "sdxl", "sana"), *FIRST.values()]
"""A tiny model of every family."""


def every_closed_form_on_every_family(test):
    """On the ways in which text reaches a picture, as every method, and on the other families too."""
    return pytest.mark.parametrize("method", CLOSED)(pytest.mark.parametrize("pipe", FAMILIES, indirect=True)(test))


@pytest.fixture(autouse=True)
def nudge(monkeypatch, registered):
    monkeypatch.syspath_prepend(str(NUDGE))
    registered(Entry("nudge", RECORDS["nudge"]))


@pytest.fixture(params=WAYS)
def pipe(request, make):
    return make(request.param)


def made(pipe, method: str, concepts=("cat",), **more) -> Edit:
    record = RECORDS[method]
    if not record.needs <= family_of(pipe).provides:
        pytest.skip(f"{method} does not fit this family")
    few_names = {"preserve": ["dog", "tree"], "vocabulary": None}  # 32 directions have no room for hundreds of names
    loop = {} if method in WITHOUT_LOOP else SHORT.get(record.shape, {})
    short = {**loop, **SETTINGS.get(method, {})}
    if method in JUDGED:
        short["context"] = Context(judge=every_second)
    return erase(pipe, list(concepts), method=method, **{"seed": SEED, **few_names, **short, **more})


MADE: dict[tuple[str, str], Edit] = {}


@pytest.fixture
def edit(request, pipe, method) -> Edit:
    """The plainest request, made once for all tests of a method on a family: the same request gives the same edit."""
    key = (request.node.callspec.params["pipe"], method)
    return MADE[key] if key in MADE else MADE.setdefault(key, made(pipe, method))


def weights(pipe) -> dict[str, torch.Tensor]:
    return {p.path: p.module.weight for p in family_of(pipe).projections("kvep")}


def standing(pipe) -> dict[str, object]:
    """Everything around a request that it must leave as it was, but for the weights."""
    parts = [family_of(pipe).denoiser, *family_of(pipe).text_encoders.values()]
    return {
        "random state": torch.get_rng_state().tolist(),
        "torch": (torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_num_threads()),
        "environment": dict(os.environ),
        "hooks": [{*m._forward_hooks, *m._forward_pre_hooks} for part in parts for m in part.modules()],
    }


@dataclass(frozen=True)
class Again:
    """The plainest request once more, while a picture is drawn in half precision around it.

    Attributes:
        edit: what it gave. before, after: of `standing`. touched: weights of the model that it changed.
    """

    edit: Edit
    before: dict[str, object]
    after: dict[str, object]
    touched: list[str]


REPEATED: dict[tuple[str, str], Again] = {}


@pytest.fixture
def again(request, pipe, method) -> Again:
    """Made once for all tests of a method on a family."""
    key = (request.node.callspec.params["pipe"], method)
    if key not in REPEATED:
        parts = [family_of(pipe).denoiser, *family_of(pipe).text_encoders.values()]
        weights = [{k: v.clone() for k, v in part.state_dict().items()} for part in parts]
        family_of(pipe).condition(["a"])  # transformers hooks on by itself, the first time that it gives all states
        torch.manual_seed(5)
        before = standing(pipe)
        with torch.autocast("cpu", torch.bfloat16):
            edit = made(pipe, method)
        pairs = zip(parts, weights, strict=True)
        touched = [k for part, were in pairs for k, v in part.state_dict().items() if not torch.equal(v, were[k])]
        REPEATED[key] = Again(edit, before, standing(pipe), touched)
    return REPEATED[key]


@every_method
def test_same_request_same_tensors(edit, again):
    """Also under autocast: half precision must not reach the text states that an edit is made from."""
    one, two = edit.tensors(), again.edit.tensors()
    assert one.keys() == two.keys()
    assert all(torch.equal(one[k], two[k]) for k in one)


@every_method
def test_the_model_is_not_touched_and_nothing_global_changes(again):
    assert not again.touched
    assert again.after == again.before


@every_closed_form_on_every_family
@pytest.mark.parametrize("params", ["v", "k", "kv"])
def test_only_the_asked_projections_change(pipe, method, params):
    edit = made(pipe, method, params=params)
    family = family_of(pipe)
    asked = [p.path for p in family.projections(params)]
    if TEXT_KV in family.provides:
        assert {path[-1] for path in asked} == set(params)
    assert sorted(edit.paths) == sorted([*asked, *(p.path for p in family.projections("p"))])
    before = weights(pipe)
    with edit.apply(pipe):
        moved = {p for p, w in weights(pipe).items() if not torch.equal(w, before[p])}
    assert moved == set(edit.paths)
    assert all(w is before[p] for p, w in weights(pipe).items())


@every_closed_form_on_every_family
def test_the_target_moves_and_moves_towards_its_anchor(pipe, method):
    """Mean over layers: the edited reading of "cat" is nearer to the anchor's (or to nothing) than it was."""
    edit = made(pipe, method, anchor="car", tokens="last", pooled=False)
    states = family_of(pipe).encode(["cat", "car"], ["cat", "car"])
    cat, car = states.span(0, "last")[0], states.span(1, "last")[0]
    before = weights(pipe)
    with edit.apply(pipe):
        after = {p: weights(pipe)[p] for p in edit.paths}

    def moved(goal: torch.Tensor) -> float:
        """What is left of the way to the reading of `goal`."""
        left = [(after[p] @ cat - before[p] @ goal).norm() / (before[p] @ (cat - goal)).norm() for p in edit.paths]
        return float(sum(left) / len(left))

    # In a model of one map alone, an anchor read more strongly than the target hides that both pull the target away.
    goals = [torch.zeros_like(car), car] if load_method(method).target_becomes == "nothing" else [car]
    assert min(map(moved, goals)) < 0.95


@every_method_that_changes_weights
def test_synonyms_are_erased_with_their_concept(pipe, method, edit):
    alone, both = edit, made(pipe, method, [Concept("cat", synonyms=("kitty",))])
    assert both.record.concepts[0].synonyms == ("kitty",)
    one, two = alone.tensors(), both.tensors()
    assert one.keys() != two.keys() or any(not torch.equal(two[name], tensor) for name, tensor in one.items())


@every_method_that_acts_while_drawing
def test_synonyms_are_part_of_the_hooks(pipe, method, edit):
    one, both = edit.tensors(), made(pipe, method, [Concept("cat", synonyms=("kitty",))]).tensors()
    assert one.keys() == both.keys()
    assert any(not torch.equal(both[name], tensor) for name, tensor in one.items())


@every_method_that_acts_while_drawing
def test_what_acts_while_drawing_ends_with_the_edit(pipe, edit, tmp_path):
    loaded = Edit.load(edit.save(tmp_path / "e.safetensors"))
    family = family_of(pipe)

    def hooks() -> list[tuple[str, str]]:
        parts = [family.denoiser, *family.text_encoders.values()]
        assert not any(hooked(part) for part in parts)  # by anything but excise and transformers
        return [hook for part in parts for hook in attached(part)]

    before = image(pipe)
    with edit.apply(pipe):
        edited, key = image(pipe), model_key(family)
        assert hooks()
    with loaded.apply(pipe):
        assert np.array_equal(image(pipe), edited)
        assert model_key(family) == key
    with edit.apply(pipe, 0.0):
        assert np.array_equal(image(pipe), before)
    assert not hooks()
    assert np.array_equal(image(pipe), before)


@every_method
def test_an_edit_has_what_its_shape_says(method, edit):
    """An inference-time method changes no weight; every other changes some, or has a hook in which it is learnt."""
    if RECORDS[method].shape == "inference-time":
        assert edit.hooks
        assert not edit.paths
    else:
        assert edit.paths or edit.hooks


@every_method
def test_what_does_not_fit_is_refused_and_what_fits_is_not(pipe, method):
    family = family_of(pipe)
    fits = RECORDS[method].needs <= family.provides
    assert (family.name in families_for(RECORDS[method])) == fits
    if not fits:
        with pytest.raises(ModelError, match=f"{method} needs .* which the model family '{family.name}'"):
            erase(pipe, ["cat"], method)


@every_method
def test_file_round_trip_keeps_every_delta(pipe, edit, tmp_path):
    loaded = Edit.load(edit.save(tmp_path / "e.safetensors"))
    assert loaded.record == edit.record
    for path in edit.paths:
        weight = original_weights(family_of(pipe), [path])[path]
        assert_close(loaded.delta(path, weight), edit.delta(path, weight), rtol=1e-4, atol=1e-6)


@every_method
def test_the_record_tells_what_was_done(method, edit):
    record = edit.record
    assert (record.method, record.seed, record.preserve) == (method, SEED, ("dog", "tree"))
    assert record.settings["anchor"] == ""
    assert {"torch", "diffusers", "transformers"} <= set(record.versions)
    assert len(record.base.weights) == 64


@every_method
def test_bad_requests_are_refused(pipe, method):
    with pytest.raises(SettingError, match="has no setting 'nonsense'"):
        made(pipe, method, nonsense=1)
    first = next(name for name, f in load_method(method).Config.model_fields.items() if name != "anchor")
    with pytest.raises(SettingError, match=f"setting '{first}' was 'x y'"):
        made(pipe, method, **{first: "x y"})
    with pytest.raises(ConceptError, match="tokens.* fit"):
        made(pipe, method, ["q z " * 45])
    with pytest.raises(ConceptError, match="is empty"):
        made(pipe, method, [""])


@every_method
def test_every_setting_is_described(method):
    for name, field in load_method(method).Config.model_fields.items():
        assert field.description, name
